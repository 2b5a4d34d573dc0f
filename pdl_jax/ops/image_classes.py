"""The classes of whole images, read from their label maps."""

import jax.numpy as jnp

from pdl_jax.typing import Array, LabelFormat


def find_classes(panoptic: Array, *, label_format: LabelFormat) -> Array:
    """Finds the class of whole images, the one that their pixels share.

    Args:
      panoptic: i32[B, H, W], label maps; beside void an image has one class, and the highest counts
        if it has several.
      label_format: encoding of the label maps.

    Returns:
      i32[B], -1 for images of void alone.
    """
    semantic = panoptic // label_format.label_divisor
    is_class = (semantic != label_format.ignore_label) & (semantic < label_format.num_classes)
    return jnp.max(jnp.where(is_class, semantic, -1), axis=(1, 2))
