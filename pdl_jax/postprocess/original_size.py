"""Post-processing of Panoptic-DeepLab at the size of the images instead of that of the input.

The maps of the network are resized once, from its stride to the size at which the image in them has
its own size, and the padding is cut off: windows, centres and areas are in pixels of the image.
Offsets keep their values, as in Model Garden, whose networks predict them in pixels of the input:
they are too short or too long by the factor of the resize where an image was resized.

Source: TensorFlow Model Garden's official/projects/panoptic.
"""

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.resampled_logits import find_resize_taps, map_resampled
from pdl_jax.ops.resize import find_traced_neighbours
from pdl_jax.ops.sampling import sample_bilinear
from pdl_jax.ops.upsampled_logits import PixelClasses
from pdl_jax.postprocess.image_sizes import ImageSizes
from pdl_jax.postprocess.panoptic import (
    PostprocessOptions,
    check_num_classes,
    mark_images,
    merge_batch,
)
from pdl_jax.typing import Array, LabelFormat


def post_process_originals(
    outputs: dict[str, Array],
    images: ImageSizes,
    *,
    label_format: LabelFormat,
    options: PostprocessOptions,
    size: tuple[int, int],
    resize: str = 'half_pixel',
) -> dict[str, Array]:
    """Turns outputs of Panoptic-DeepLab into panoptic label maps of the images.

    Args:
      outputs: 'semantic': f32[B, h, w, C] logits, 'center': f32[B, h', w', 1] heat and 'offset':
        f32[B, h', w', 2] of the padded input, at any resolution.
      images: the sizes of the images.
      label_format, options, resize: see `panoptic.post_process`.
      size: (height, width) of the input in pixels.

    Returns:
      See `panoptic.post_process`, of the canvas; outside of an image 'panoptic' and 'semantic' are
      void, the others mean nothing.

    Raises:
      ValueError: the logits have another number of classes than the label format.
    """
    logits = outputs['semantic'].astype(jnp.float32)
    check_num_classes(logits, label_format)
    scale = images.resized.astype(jnp.float32) / images.original.astype(jnp.float32)
    full = jnp.ceil(jnp.array(size, jnp.float32) / scale).astype(jnp.int32)

    def resize_instances(maps: Array, full: Array) -> Array:
        # Blends of a + (b - a) * w keep equal pixels equal: the resize repeats those at the border,
        # and centres there are plateaus.
        source = (maps.shape[0], maps.shape[1])
        rows, columns = (
            _find_positions(n, length, target, resize)
            for n, length, target in zip(source, images.canvas, full, strict=True)
        )
        return sample_bilinear(maps, rows, columns, jnp.array(source), fill=0.0)

    instances = jnp.concatenate([outputs['center'], outputs['offset']], axis=-1)
    # Without the barrier consumers of the heat might compute it again, with another rounding.
    instances = lax.optimization_barrier(
        jax.vmap(resize_instances)(instances.astype(jnp.float32), full)
    )
    classes = _classify(logits, images, full, resize)
    maps, voted = merge_batch(
        classes.semantic,
        instances[..., 0],
        instances[..., 1:],
        label_format=label_format,
        options=options,
        image_size=images.original,
    )
    picked = _pick_logits(logits, voted, images.canvas, full, resize)
    ratio = jnp.where(voted == classes.semantic, 1.0, jnp.exp(picked - classes.logit))
    is_inside = mark_images(images.original, images.canvas)
    return {
        **maps,
        'semantic': jnp.where(is_inside, classes.semantic, label_format.ignore_label),
        'class_probability': classes.probability * ratio,
    }


def _find_positions(in_size: int, out_size: int, target: Array, mode: str) -> Array:
    low, _, fraction = find_traced_neighbours(
        jnp.arange(out_size, dtype=jnp.float32), in_size, target, mode
    )
    return low + fraction


def _classify(logits: Array, images: ImageSizes, full: Array, resize: str) -> PixelClasses:
    """Finds the most likely class per pixel of the canvas."""

    def reduce(values: Array) -> PixelClasses:
        highest = jnp.max(values, axis=0)
        total = jnp.sum(jnp.exp(values - highest), axis=0)
        return PixelClasses(jnp.argmax(values, axis=0).astype(jnp.int32), 1 / total, highest)

    rows, columns = (
        find_resize_taps(logits.shape[1 + i], images.canvas[i], resize, full[:, i])
        for i in range(2)
    )
    return map_resampled(reduce, logits, rows, columns, num_rows=images.original[:, 0])


def _pick_logits(
    logits: Array, labels: Array, canvas: tuple[int, int], full: Array, resize: str
) -> Array:
    """Returns the resized logit of each pixel's label, f32[B, H, W]."""

    def pick(logits: Array, labels: Array, full: Array) -> Array:
        (row_low, row_high, row_fraction), (low, high, fraction) = (
            find_traced_neighbours(
                jnp.arange(canvas[i], dtype=jnp.float32), logits.shape[i], full[i], resize
            )
            for i in range(2)
        )

        def blend(row: Array) -> Array:
            below, above = (
                logits[row.astype(jnp.int32)[:, None], column.astype(jnp.int32), labels]
                for column in (low, high)
            )
            return below + (above - below) * fraction

        below = blend(row_low)
        return below + (blend(row_high) - below) * row_fraction[:, None]

    return lax.map(lambda inputs: pick(*inputs), (logits, labels, full))
