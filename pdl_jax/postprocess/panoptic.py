"""The whole way from network outputs to panoptic label maps."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.ops.label_probability import probability_of_labels
from pdl_jax.ops.upsampled_logits import PixelClasses, classify_pixels
from pdl_jax.postprocess.centers import TOP_K_RULES, find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.merge import is_in_classes, merge_panoptic
from pdl_jax.postprocess.scores import map_center_scores, score_at_centroids
from pdl_jax.typing import Array, LabelFormat, check_not_negative, check_positive

SCORE_RULES = ('assigned', 'centroid')


@dataclasses.dataclass(frozen=True)
class PostprocessOptions:
    """The rules of post-processing.

    Attributes:
      center_threshold: lowest heat of a centre, exclusive.
      nms_kernel_px: side of the window in which a centre must be the maximum, in pixels.
      max_centers: most centres K of an image.
      stuff_area_limit_px: smallest area of a stuff class in pixels.
      min_score: lowest score of a thing, inclusive; the pixels of others are void, see
        `drop_things`.
      min_area_px: smallest area of a thing in pixels of the original image, likewise.
      top_k_rule: see `find_centers`.
      score_rule: the score of an instance is the heat of the centre that its pixels are 'assigned'
        to (DeepLab2), or that at its own 'centroid' (bowenc0221, detectron2).
      is_limit_void, is_rest_instance: see `merge_panoptic`.
      is_padding_cut: nothing beyond the image takes part (detectron2); else the padding is labelled
        with it, and votes and centres there count.
      is_at_original_size: images are labelled at their own size instead of that of the input (Model
        Garden), see `original_size`; their labels need no resize.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    center_threshold: float = 0.1
    nms_kernel_px: int = 13
    max_centers: int = 200
    stuff_area_limit_px: int = 2048
    min_score: float = 0.0
    min_area_px: int = 0
    top_k_rule: str = 'highest'
    score_rule: str = 'assigned'
    is_limit_void: bool = False
    is_rest_instance: bool = False
    is_padding_cut: bool = False
    is_at_original_size: bool = False

    def __post_init__(self) -> None:
        check_positive('postprocess', self, 'nms_kernel_px', 'max_centers')
        for field in ('center_threshold', 'min_score'):
            value = getattr(self, field)
            # A search for the best threshold traces it, see `System.tuning_choices`.
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise ValueError(f'config.postprocess.{field} (={value!r}) must lie in [0, 1]')
        check_not_negative('postprocess', self, 'min_area_px', 'stuff_area_limit_px')
        for field, choices in (('top_k_rule', TOP_K_RULES), ('score_rule', SCORE_RULES)):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(
                    f'config.postprocess.{field} (={value!r}) must be one of {list(choices)}'
                )


def post_process(
    outputs: dict[str, Array],
    *,
    label_format: LabelFormat,
    options: PostprocessOptions = PostprocessOptions(),
    size: tuple[int, int] | None = None,
    resize: str = 'corner_aligned',
    image_size: Array | None = None,
) -> dict[str, Array]:
    """Turns outputs of Panoptic-DeepLab into panoptic label maps.

    Images are mapped with vmap, so a batch that is sharded over devices stays sharded; every step
    needs only a few maps of memory per image.

    Args:
      outputs: 'semantic': f32[B, h, w, C] logits, and at the resolution of the result 'center':
        f32[B, H, W, 1] heat and 'offset': f32[B, H, W, 2], (dy, dx) in pixels from a pixel to its
        centre.
      label_format: how classes and instances are coded.
      options: the rules.
      size: (H, W) of the result in pixels, to which the logits are upsampled without a map of all
        classes; None if they have it.
      resize: how they are upsampled, see `ops.resize.resize_bilinear`.
      image_size: i32[B, 2], (height, width) of the images in pixels, whose padding is cut off;
        None if there is none, or if it takes part.

    Returns:
      'panoptic': i32[B, H, W].
      'semantic': i32[B, H, W], before the majority vote.
      'instance': i32[B, H, W], 1-based row in `centers`; 0 on stuff.
      'class_probability': f32[B, H, W], probability of the class of the pixel's segment; of that in
        'semantic' where the pixel is void.
      'center_score': f32[B, H, W], the heat that scores the pixel's instance; 0 on stuff.
      'centers': f32[B, K, 2], (y, x) in pixels.
      'center_valid': bool[B, K].

    Raises:
      ValueError: the logits have another number of classes than the label format.
    """
    pixel_classes = label_semantic(
        outputs['semantic'], label_format=label_format, size=size, resize=resize
    )
    maps, voted = merge_batch(
        pixel_classes.semantic,
        outputs['center'][..., 0],
        outputs['offset'],
        label_format=label_format,
        options=options,
        image_size=image_size,
    )
    logits = outputs['semantic'].astype(jnp.float32)
    probability = probability_of_labels(logits, pixel_classes, voted, resize)
    return {**maps, 'semantic': pixel_classes.semantic, 'class_probability': probability}


def merge_batch(
    semantic: Array,
    heatmap: Array,
    offsets: Array,
    *,
    label_format: LabelFormat,
    options: PostprocessOptions,
    image_size: Array | None = None,
) -> tuple[dict[str, Array], Array]:
    """Finds and merges the instances of images whose pixels have classes.

    Args:
      semantic: i32[B, H, W].
      heatmap: f32[B, H, W].
      offsets: f32[B, H, W, 2].
      label_format, options, image_size: see `post_process`.

    Returns:
      The maps 'panoptic', 'instance', 'center_score', 'centers' and 'center_valid' of
      `post_process`, and i32[B, H, W], the class of each pixel's segment, of the pixel itself where
      it is void.
    """

    def process(semantic: Array, heatmap: Array, offsets: Array) -> dict[str, Array]:
        return _merge_image(semantic, heatmap, offsets, label_format, options)

    classes = semantic
    if image_size is not None:
        is_inside = mark_images(image_size, (semantic.shape[1], semantic.shape[2]))
        heatmap = jnp.where(is_inside, heatmap, -jnp.inf)
        classes = jnp.where(is_inside, semantic, label_format.ignore_label)
    maps = jax.vmap(process)(classes, heatmap, offsets)
    voted = maps['panoptic'] // label_format.label_divisor
    return maps, jnp.where(voted == label_format.ignore_label, semantic, voted)


def label_semantic(
    logits: Array,
    *,
    label_format: LabelFormat,
    size: tuple[int, int] | None = None,
    resize: str = 'corner_aligned',
) -> PixelClasses:
    """Chooses the class of every pixel.

    Args:
      logits: f32[B, h, w, C].
      label_format, size, resize: see `post_process`.

    Raises:
      ValueError: the logits have another number of classes than the label format.
    """
    check_num_classes(logits, label_format)
    logits = logits.astype(jnp.float32)
    height, width = size or logits.shape[1:3]
    return classify_pixels(logits, (height, width), resize)


def check_num_classes(logits: Array, label_format: LabelFormat) -> None:
    """Checks that logits f32[B, h, w, C] are those of the classes of a label format.

    Raises:
      ValueError: they are not.
    """
    num_logits = logits.shape[-1]
    if num_logits != label_format.num_classes:
        raise ValueError(
            f"outputs['semantic'] has {num_logits} classes but the label format has "
            f'{label_format.num_classes}: use the dataset that the model was trained on'
        )


def mark_images(image_size: Array, size: tuple[int, int]) -> Array:
    """Returns bool[B, H, W], true for the pixels of the images."""
    is_row, is_column = (jnp.arange(n) < image_size[:, i, None] for i, n in enumerate(size))
    return is_row[:, :, None] & is_column[:, None, :]


def _merge_image(
    semantic: Array,
    heatmap: Array,
    offsets: Array,
    label_format: LabelFormat,
    options: PostprocessOptions,
) -> dict[str, Array]:
    centers, scores, valid = find_centers(
        heatmap.astype(jnp.float32),
        threshold=options.center_threshold,
        kernel_px=options.nms_kernel_px,
        max_centers=options.max_centers,
        top_k_rule=options.top_k_rule,
    )
    is_thing = is_in_classes(semantic, label_format.thing_classes)
    nearest = group_pixels(centers, valid, offsets.astype(jnp.float32))
    instance = jnp.where(is_thing, nearest, 0)
    panoptic = merge_panoptic(
        semantic,
        instance,
        label_format=label_format,
        max_instances=options.max_centers,
        stuff_area_limit=options.stuff_area_limit_px,
        is_limit_void=options.is_limit_void,
        is_rest_instance=options.is_rest_instance,
    )
    if options.score_rule == 'centroid':
        score = score_at_centroids(instance, heatmap, max_instances=options.max_centers)
    else:
        score = map_center_scores(instance, scores)
    return {
        'panoptic': panoptic,
        'instance': instance,
        'center_score': score,
        'centers': centers,
        'center_valid': valid,
    }
