"""Resizing, random scale, crop, flips and rotation as one resampling from a canvas to a crop."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pdl_jax.ops.sampling import sample_bilinear, sample_nearest
from pdl_jax.preprocess.color_policy import POLICIES
from pdl_jax.preprocess.image_sizes import resize_to_range
from pdl_jax.preprocess.normalize import Normalization, normalize_image
from pdl_jax.preprocess.resized_crop import draw_part, find_center, resize_part
from pdl_jax.typing import Array, check_function_names, check_positive, check_share

# That of classifiers, which see a part of the image.
CLASSIFIER_CONVENTION = 'torchvision'
CONVENTIONS = ('deeplab2', 'model_garden', CLASSIFIER_CONVENTION)


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """Options of the random crop of a training sample.

    Attributes:
      crop_size: (height, width) of the network input in pixels.
      resize_min_px: length of the shorter side after a first resize; 0 for none.
      resize_max_px: limit of the longer side in that resize; 0 for none.
      convention: 'deeplab2' rounds sizes down, aligns the centres of corner pixels, and puts an
        image that is smaller than the crop at a random position; 'model_garden' fits images into a
        square of `resize_max_px` (as `resize_min_px`), rounds to the nearest, aligns the corners of
        the images, and puts a smaller image at the top left; 'torchvision' resizes a part of the
        image to the crop: a random one in training, in the place of a random scale, and at
        inference the central crop of the image whose shorter side has `resize_min_px`.
      min_scale: smallest random scale.
      max_scale: largest random scale.
      num_scales: number of equidistant values that the scale is drawn from; 0 draws from the whole
        interval. DeepLab2 draws from 15 values in [0.5, 2] (Cityscapes) or 10 in [0.5, 1.5] (COCO),
        none of which is 1.
      min_crop_share, max_crop_share: range of the random share of the image's area that a crop
        shows in the convention 'torchvision'.
      max_crop_aspect: limit of the random ratio of its sides there.
      flip_probability: probability of mirroring left and right.
      vertical_flip_probability: probability of mirroring top and bottom.
      quarter_turn_probability: probability of a turn by 90, 180 or 270 degrees, each alike; 0.75
        makes all four orientations alike.
      max_rotation_degrees: limit of a rotation about the centre of the image, to both sides; 0 for
        none.
      rotation_probability: probability of that rotation.
      brightness, contrast, saturation: ranges of random factors, 0.4 for one in [0.6, 1.4]; 0 for
        none. See `photometric.jitter_colors`.
      hue: limit of a random shift of the hue in turns of the colour circle, at most 0.5; 0 for
        none.
      color_probability: probability of these four together.
      max_blur_sigma_px: limit of the standard deviation of a Gaussian blur in pixels of the source;
        0 for none.
      blur_probability: probability of that blur.
      max_noise_deviation: limit of the standard deviation of Gaussian noise in grey levels, of 255;
        0 for none.
      noise_probability: probability of that noise.
      color_policy: a name of `color_policy.POLICIES`, whose operations come before the changes
        above; '' for none.
      color_policy_magnitude: factor of the levels of these operations.
      copy_paste_probability: probability of pasting segments of another sample over this one, see
        `copy_paste.paste_segments`.
      copy_paste_scale: factor of the scales that the other sample is drawn at.
      extra: functions of the user as 'module:function', see `training.step.augment_further`.
      normalization: see `normalize.normalize_image`.
    """

    crop_size: tuple[int, int]
    resize_min_px: int = 0
    resize_max_px: int = 0
    convention: str = 'deeplab2'
    min_scale: float = 0.5
    max_scale: float = 2.0
    num_scales: int = 0
    min_crop_share: float = 0.08
    max_crop_share: float = 1.0
    max_crop_aspect: float = 4 / 3
    flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    quarter_turn_probability: float = 0.0
    max_rotation_degrees: float = 0.0
    rotation_probability: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    color_probability: float = 1.0
    max_blur_sigma_px: float = 0.0
    blur_probability: float = 1.0
    max_noise_deviation: float = 0.0
    noise_probability: float = 1.0
    color_policy: str = ''
    color_policy_magnitude: float = 1.0
    copy_paste_probability: float = 0.0
    copy_paste_scale: float = 0.5
    extra: tuple[str, ...] = ()
    normalization: Normalization = 'unit'

    def __post_init__(self) -> None:
        for field, value in zip(('crop_height_px', 'crop_width_px'), self.crop_size, strict=True):
            if not value > 0:
                raise ValueError(f'config.augment.{field} (={value!r}) must be positive')
        check_positive('augment', self, 'min_scale', 'copy_paste_scale')
        fields = [field.name for field in dataclasses.fields(self)]
        check_share('augment', self, *(name for name in fields if name.endswith('_probability')))
        for field, limit in _LIMITS.items():
            value = getattr(self, field)
            if not 0 <= value <= limit:
                raise ValueError(f'config.augment.{field} (={value!r}) must lie in [0, {limit}]')
        if self.color_policy not in ('', *POLICIES):
            raise ValueError(
                f'config.augment.color_policy (={self.color_policy!r}) must be one of '
                f'{["", *POLICIES]}'
            )
        check_function_names('augment', self, 'extra')
        if self.max_scale < self.min_scale:
            raise ValueError(
                f'config.augment.max_scale (={self.max_scale}) must not be below '
                f'config.augment.min_scale (={self.min_scale})'
            )
        if self.is_part:
            self._check_part()
        elif self.resize_min_px and not self.resize_max_px:
            # Without a limit a long image would grow beyond every fixed input size.
            raise ValueError(
                f'config.augment.resize_min_px (={self.resize_min_px}) needs '
                f'config.augment.resize_max_px too: set it to the longest side that the network '
                f'shall see'
            )
        if self.convention not in CONVENTIONS:
            raise ValueError(
                f'config.augment.convention (={self.convention!r}) must be one of '
                f'{list(CONVENTIONS)}'
            )
        if self.convention == 'model_garden' and self.resize_min_px != self.resize_max_px:
            raise ValueError(
                f'config.augment.resize_min_px (={self.resize_min_px}) must be '
                f'config.augment.resize_max_px (={self.resize_max_px}) where '
                f"config.augment.convention is 'model_garden', which fits images into a square"
            )

    def _check_part(self) -> None:
        if not 0 < self.min_crop_share <= self.max_crop_share <= 1 <= self.max_crop_aspect:
            raise ValueError(
                f'config.augment.min_crop_share (={self.min_crop_share}) and max_crop_share '
                f'(={self.max_crop_share}) must be ascending shares above 0, and max_crop_aspect '
                f'(={self.max_crop_aspect}) at least 1'
            )
        if self.resize_min_px < max(self.crop_size) or self.resize_max_px or self.is_rotating:
            raise ValueError(
                f'config.augment.resize_min_px (={self.resize_min_px}) must hold the crop '
                f"{self.crop_size} where config.augment.convention is 'torchvision', "
                f'resize_max_px (={self.resize_max_px}) be 0, and nothing be rotated'
            )

    @property
    def is_part(self) -> bool:
        """Whether the network sees a part of the image, see `convention`."""
        return self.convention == CLASSIFIER_CONVENTION

    @property
    def is_rotating(self) -> bool:
        """Whether rows and columns may mix."""
        return self.quarter_turn_probability > 0 or self.max_rotation_degrees > 0

    @property
    def for_pasted(self) -> 'AugmentOptions':
        """The options of a sample whose segments are pasted over another one."""
        scales = self.min_scale * self.copy_paste_scale, self.max_scale * self.copy_paste_scale
        return dataclasses.replace(self, min_scale=scales[0], max_scale=scales[1])


# Largest values of fields. A Gaussian wider than that costs more than the network.
_LIMITS = {
    'max_rotation_degrees': 180,
    'brightness': 1,
    'contrast': 1,
    'saturation': 1,
    'hue': 0.5,
    'max_blur_sigma_px': 20,
    'max_noise_deviation': 255,
    'color_policy_magnitude': 1,
}
# `fold_in` of a sample's key by these; 0 to 3 would give the keys that `split` gives the others.
_VERTICAL_FLIP_DRAW = 4
_ROTATION_DRAW = 5


class Window(NamedTuple):
    """Source positions of the pixels of a resampled image.

    Attributes:
      rows: f32[H], source row of each row, or f32[H, W] of each pixel.
      columns: f32[W], source column of each column, or f32[H, W] of each pixel.
      label_rows, label_columns: those of labels; None if they are the same.
    """

    rows: Array
    columns: Array
    label_rows: Array | None = None
    label_columns: Array | None = None


def scale_size(size: Array, options: AugmentOptions, scale: Array | float = 1.0) -> Array:
    """Computes the size of an image, i32[2], after the resize to a range and a random scale."""
    if options.is_part:
        # Exact for the shorter side; the longer one is cut.
        return options.resize_min_px * size // jnp.min(size)
    if options.convention == 'model_garden':
        dims = size.astype(jnp.float32)
        box = jnp.round(scale * (options.resize_max_px or dims))
        return jnp.maximum(jnp.round(dims * jnp.min(box / dims)), 1).astype(jnp.int32)
    resized = resize_to_range(size, options.resize_min_px, options.resize_max_px)
    return jnp.maximum((resized.astype(jnp.float32) * scale).astype(jnp.int32), 1)


def random_window(key: Array, size: Array, options: AugmentOptions) -> Window:
    """Draws a scale, a rotation, a crop or padding position, and flips.

    The rotation keeps the centre of the image; it is counter-clockwise for positive angles, as in
    torchvision's and NumPy's functions. The crop is drawn as if the image kept its frame, and what
    a rotation turns out of that frame is seen where the crop reaches beyond it.

    Args:
      key: a random key.
      size: i32[2], (height, width) of the source in pixels.
      options: ranges to draw from.

    Returns:
      The window of `options.crop_size`. An image smaller than the crop lies at a random position
      in it, or at the top left.

    Source: DeepLab2's data/preprocessing, with its resize and scaling composed into one resampling;
    Model Garden's official/vision/ops/preprocess_ops.py; `resized_crop.draw_part`.
    """
    scale_key, pad_key, crop_key, flip_key = jax.random.split(key, 4)
    if options.is_part:
        start, part = draw_part(
            scale_key,
            size,
            min_share=options.min_crop_share,
            max_share=options.max_crop_share,
            max_aspect=options.max_crop_aspect,
        )
        positions = resize_part(start, part, options.crop_size)
        return Window(*_flip(key, flip_key, positions, options))
    if options.num_scales:
        scales = jnp.linspace(options.min_scale, options.max_scale, options.num_scales)
        scale = jax.random.choice(scale_key, scales)
    else:
        scale = jax.random.uniform(scale_key, minval=options.min_scale, maxval=options.max_scale)
    scaled = scale_size(size, options, scale)
    frame, cosine, sine = _draw_rotation(key, scaled, options)
    crop = jnp.array(options.crop_size)
    if options.convention == 'model_garden':
        excess = jnp.maximum(frame - crop, 0)
        offset = (jax.random.uniform(crop_key, (2,)) * excess).astype(jnp.int32)
    else:
        before = jax.random.randint(pad_key, (2,), 0, jnp.maximum(crop - frame, 1))
        start = jax.random.randint(crop_key, (2,), 0, jnp.maximum(frame - crop, 0) + 1)
        offset = start - before
    index = (jnp.arange(options.crop_size[0]), jnp.arange(options.crop_size[1]))
    rows, columns = _flip(key, flip_key, index, options)
    if not options.is_rotating:
        return _make_window(
            (rows + offset[0], columns + offset[1]), size, scaled, options.convention
        )
    # Centres are halves of integers, so quarter turns are exact.
    down = (rows + offset[0])[:, None] - (frame[0] - 1) / 2
    right = (columns + offset[1])[None, :] - (frame[1] - 1) / 2
    positions = (
        cosine * down + sine * right + (scaled[0] - 1) / 2,
        cosine * right - sine * down + (scaled[1] - 1) / 2,
    )
    return Window(*_source_positions(positions, size, scaled, options.convention))


def _flip(
    key: Array, flip_key: Array, positions: tuple[Array, Array], options: AugmentOptions
) -> tuple[Array, Array]:
    """Draws flips of the rows and columns of a crop."""
    rows, columns = positions
    is_flipped = jax.random.uniform(flip_key) < options.flip_probability
    columns = jnp.where(is_flipped, columns[::-1], columns)
    if options.vertical_flip_probability:
        draw = jax.random.uniform(jax.random.fold_in(key, _VERTICAL_FLIP_DRAW))
        rows = jnp.where(draw < options.vertical_flip_probability, rows[::-1], rows)
    return rows, columns


def _draw_rotation(
    key: Array, size: Array, options: AugmentOptions
) -> tuple[Array, Array | float, Array | float]:
    """Draws a rotation.

    Returns:
      i32[2], the size of the image after its quarter turns, and the cosine and sine of the angle.
    """
    if not options.is_rotating:
        return size, 1.0, 0.0
    turn_key, turns_key, rotation_key, angle_key = jax.random.split(
        jax.random.fold_in(key, _ROTATION_DRAW), 4
    )
    is_turned = jax.random.uniform(turn_key) < options.quarter_turn_probability
    turns = jnp.where(is_turned, jax.random.randint(turns_key, (), 1, 4), 0)
    is_rotated = jax.random.uniform(rotation_key) < options.rotation_probability
    angle = jax.random.uniform(angle_key, minval=-1) * jnp.deg2rad(options.max_rotation_degrees)
    angle = jnp.where(is_rotated, angle, 0.0)
    # Exact for quarter turns, unlike the cosine of a rounded half of pi.
    cosine, sine = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    return (
        jnp.where(turns % 2 == 1, size[::-1], size),
        cosine * jnp.cos(angle) - sine * jnp.sin(angle),
        sine * jnp.cos(angle) + cosine * jnp.sin(angle),
    )


def centered_window(
    size: Array, resized: Array, out_size: tuple[int, int], convention: str = 'deeplab2'
) -> Window:
    """Returns the window of an image resized to `resized`, at the top left of an output.

    In the convention 'torchvision' it is the window of its centre, of the size of the output. Else
    swapping `size` and `resized` gives the inverse.

    Args:
      size: i32[2], (height, width) of the source in pixels.
      resized: i32[2], (height, width) of the resized image in pixels.
      out_size: (height, width) of the output in pixels.
      convention: see `AugmentOptions`.
    """
    if convention == CLASSIFIER_CONVENTION:
        return Window(*find_center(size, resized, out_size))
    index = (jnp.arange(out_size[0]), jnp.arange(out_size[1]))
    return _make_window(index, size, resized, convention)


def _make_window(index: tuple[Array, Array], size: Array, target: Array, convention: str) -> Window:
    """Makes the window of rows and columns of an image resized from `size` to `target`."""
    positions = _source_positions(index, size, target, convention)
    if convention == 'deeplab2':
        return Window(*positions)
    # Model Garden cuts the size of labels where it rounds that of images: 64 rows of an image may
    # have 63 of labels.
    dims = size.astype(jnp.float32)
    label_target = (dims * (target.astype(jnp.float32) / dims)).astype(jnp.int32)
    return Window(*positions, *_source_positions(index, size, label_target, convention))


def _source_positions(
    index: tuple[Array, Array], source: Array, target: Array, convention: str
) -> tuple[Array, Array]:
    """Maps positions in an image resized from `source` to `target` pixels to f32 source positions.

    Positions beyond the ends get -1, which lies outside of the source.

    Args:
      index: positions on both axes.
      source, target: i32[2], sizes in pixels.
      convention: see `AugmentOptions`.
    """

    def find(index: Array, source: Array, target: Array) -> Array:
        is_inside = (index >= 0) & (index < target)
        if convention == 'model_garden':
            step = source.astype(jnp.float32) / target.astype(jnp.float32)
            position = jnp.clip((index + 0.5) * step - 0.5, 0, source - 1)
        else:
            # Corners are aligned; a target of one pixel takes the first of the source.
            step = (source - 1).astype(jnp.float32) / jnp.maximum(target - 1, 1).astype(jnp.float32)
            position = index * jnp.where(target > 1, step, 0.0)
        return jnp.where(is_inside, position, -1.0)

    return find(index[0], source[0], target[0]), find(index[1], source[1], target[1])


def sample_image(
    image: Array, size: Array, window: Window, *, normalization: Normalization
) -> Array:
    """Normalises and resamples a canvas, u8[H, W, C] or such values in f32.

    Returns:
      f32[H', W', C], 0 outside of the image.
    """
    image = normalize_image(image, size, kind=normalization)
    return sample_bilinear(image, window.rows, window.columns, size, fill=0.0)


def sample_labels(labels: Array, size: Array, window: Window, *, fill: ArrayLike) -> Array:
    """Resamples a label map i32[H, W] with nearest neighbours; `fill` outside of the image."""
    rows = window.rows if window.label_rows is None else window.label_rows
    columns = window.columns if window.label_columns is None else window.label_columns
    return sample_nearest(labels, rows, columns, size, fill=fill)
