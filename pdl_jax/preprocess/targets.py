"""Training targets from a panoptic label map."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.ops.segments import index_labels, lookup, segment_centroids, unique_labels
from pdl_jax.typing import Array, LabelFormat, check_positive

ROUNDINGS = ('nearest', 'down')


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """Options of the training targets.

    Attributes:
      sigma_px: standard deviation of the Gaussian at every instance centre, in pixels of the crop.
      small_instance_area_px: area inside the crop below which an instance is small.
      small_instance_weight: semantic weight of the pixels of small instances.
      max_instances: number of instances of a crop that get targets; pixels of further ones get no
        instance loss.
      is_crowd_ignored: crowd pixels are void for the semantic loss, as in DeepLab2's records by
        default; otherwise they keep their class. The instance losses always leave them out.
      center_rounding: rounding of the mean position to the pixel of the Gaussian's peak: 'nearest',
        half to even (DeepLab2, detectron2), or 'down' (bowenc0221).
      is_offset_to_pixel: offsets point to that pixel (DeepLab2) instead of the mean position itself
        (bowenc0221, detectron2).
      is_crowd_drawn: the crowd of a class gets a Gaussian and the weight of a small instance, as if
        it were one (bowenc0221, detectron2, whose heat around a crowd is a leak); its pixels stay
        out of the instance losses.
      is_crowd_instance: the crowd of a class is an instance in all respects (Model Garden).

    Raises:
      ValueError: `center_rounding` is unknown.
    """

    sigma_px: float = 8.0
    small_instance_area_px: int = 4096
    small_instance_weight: float = 3.0
    max_instances: int = 256
    is_crowd_ignored: bool = True
    center_rounding: str = 'nearest'
    is_offset_to_pixel: bool = True
    is_crowd_drawn: bool = False
    is_crowd_instance: bool = False

    def __post_init__(self) -> None:
        check_positive('targets', self, 'max_instances', 'sigma_px')
        if self.center_rounding not in ROUNDINGS:
            raise ValueError(
                f'config.targets.center_rounding (={self.center_rounding!r}) must be one of '
                f'{list(ROUNDINGS)}'
            )


def make_targets(
    panoptic: Array, *, label_format: LabelFormat, options: TargetOptions
) -> dict[str, Array]:
    """Makes the targets of one crop.

    The centre of an instance is the mean position of its pixels in the crop, rounded to a pixel; it
    may lie outside of the instance's mask.

    Args:
      panoptic: i32[H, W], the label map after augmentation.
      label_format: encoding of classes and instances.
      options: see `TargetOptions`.

    Returns:
      'semantic': i32[H, W], ignore_label on void.
      'center': f32[H, W] in [0, 1], Gaussians joined by their maximum.
      'offset': f32[H, W, 2], (dy, dx) in pixels from a pixel to its instance's centre; 0 where
        there is none.
      'semantic_weight': f32[H, W], 1 or `small_instance_weight`; the loss masks void.
      'center_weight': f32[H, W], 0 on void and crowd.
      'offset_weight': f32[H, W], 1 on things except crowd.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3; rounding, patch and weights from
    DeepLab2.
    """
    semantic = panoptic // label_format.label_divisor
    instance = panoptic % label_format.label_divisor
    is_void = semantic == label_format.ignore_label
    is_thing = lookup(jnp.asarray(label_format.thing_table(), jnp.int32), semantic) > 0
    is_crowd = is_thing & (instance == 0)
    has_crowd_target = options.is_crowd_drawn or options.is_crowd_instance
    is_instance = ((instance > 0) | (is_crowd & has_crowd_target)) & ~is_void
    is_crowd &= not options.is_crowd_instance

    index = index_instances(
        panoptic, is_instance, label_format=label_format, max_instances=options.max_instances
    )
    area, mean = segment_centroids(index, options.max_instances)
    is_known = index < options.max_instances
    center = jnp.round(mean) if options.center_rounding == 'nearest' else jnp.floor(mean)

    height, width = panoptic.shape
    rows = jnp.arange(height, dtype=jnp.float32)[:, None, None]
    columns = jnp.arange(width, dtype=jnp.float32)[None, :, None]
    position = jnp.concatenate(jnp.broadcast_arrays(rows, columns), axis=-1)
    # The extra row belongs to pixels without an instance.
    goal = center if options.is_offset_to_pixel else mean
    table = jnp.concatenate([goal, jnp.zeros((1, 2), jnp.float32)])
    offset = jnp.where(is_known[..., None], lookup(table, index) - position, 0.0)

    is_small = (area < options.small_instance_area_px) & (area > 0)
    small_table = jnp.concatenate([is_small, jnp.zeros(1, bool)]).astype(jnp.int32)
    semantic_weight = jnp.where(lookup(small_table, index) > 0, options.small_instance_weight, 1.0)

    has_target = ~is_instance | is_known
    if options.is_crowd_ignored:
        semantic = jnp.where(is_crowd, label_format.ignore_label, semantic)
    return {
        'semantic': semantic,
        'center': draw_centers(
            center.astype(jnp.int32), area > 0, (height, width), sigma_px=options.sigma_px
        ),
        'offset': offset,
        'semantic_weight': semantic_weight,
        'center_weight': (~is_void & ~is_crowd & has_target).astype(jnp.float32),
        'offset_weight': (is_thing & ~is_crowd & has_target).astype(jnp.float32),
    }


def index_instances(
    panoptic: Array, is_instance: Array, *, label_format: LabelFormat, max_instances: int
) -> Array:
    """Numbers the instances of a label map by their labels.

    Args:
      panoptic: i32[H, W].
      is_instance: bool[H, W], the pixels that belong to an instance.
      label_format: encoding of classes and instances.
      max_instances: instances that get a number, those with the smallest labels.

    Returns:
      i32[H, W] in [0, max_instances], `max_instances` for all other pixels.
    """
    # Instance labels end with the classes, so a table of them is small even if void is 255.
    no_label = label_format.num_classes * label_format.label_divisor
    labels = jnp.where(is_instance, panoptic, no_label)
    # `no_label` sorts last, so it never displaces an instance.
    ids, _ = unique_labels(labels, size=max_instances, num_labels=no_label)
    index = index_labels(labels, ids, num_labels=no_label)
    return jnp.where(is_instance, index, max_instances)


def draw_centers(centers: Array, valid: Array, size: tuple[int, int], *, sigma_px: float) -> Array:
    """Draws a Gaussian at every centre and joins them by their maximum.

    Args:
      centers: i32[K, 2], (y, x) in pixels, inside the map.
      valid: bool[K], rows to draw; valid rows come first.
      size: (height, width) of the map in pixels.
      sigma_px: standard deviation; the Gaussian is cut off to a square of 6 sigma + 3 pixels.

    Returns:
      f32[H, W] in [0, 1], exactly 1 at every centre.
    """
    reach = int(3 * sigma_px + 1)
    side = int(6 * sigma_px + 3)
    axis = np.arange(side, dtype=np.float32) - reach
    patch = jnp.asarray(
        np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * sigma_px**2)), jnp.float32
    )
    canvas = jnp.zeros((size[0] + side, size[1] + side), jnp.float32)

    def draw(row: Array, canvas: Array) -> Array:
        start = (centers[row, 0], centers[row, 1])
        below = jax.lax.dynamic_slice(canvas, start, patch.shape)
        joined = jnp.maximum(below, jnp.where(valid[row], patch, 0.0))
        return jax.lax.dynamic_update_slice(canvas, joined, start)

    canvas = jax.lax.fori_loop(0, jnp.sum(valid), draw, canvas)
    return canvas[reach : reach + size[0], reach : reach + size[1]]
