"""Panoptic copy-paste: segments of one sample over another."""

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.ops.segments import lookup
from pdl_jax.typing import Array, LabelFormat

# Label of the padding of a sample that is pasted: it is no class, not even void.
PADDING = -1


def paste_segments(
    key: Array,
    sample: tuple[Array, Array],
    pasted: tuple[Array, Array],
    *,
    label_format: LabelFormat,
    probability: float,
) -> tuple[Array, Array]:
    """Replaces pixels of a sample by those of another one, image and label.

    All things are pasted, crowds too; of the stuff a random part, of any number of classes alike;
    void and padding never. An instance i of the pasted sample becomes label_divisor - 1 - i, so
    that it stays apart from those below it as long as all ids are smaller than label_divisor / 2.

    Args:
      key: a random key.
      sample: image f32[H, W, C] and label map i32[H, W].
      pasted: the same of another sample, whose padding has the label `PADDING`.
      label_format: classes and encoding of the label maps.
      probability: how often anything is pasted.

    Returns:
      Image and label map.

    Source: DeepLab2's sample generator for kMaX-DeepLab (Yu et al., k-means Mask Transformer, ECCV
    2022), which pastes onto every image.
    """
    draw_key, share_key, stuff_key = jax.random.split(key, 3)
    # Among U labels DeepLab2 keeps a random subset of k, with k uniform in 0 .. U. Keeping each by
    # itself with one uniform probability for all draws the same, without counting the labels.
    share = jax.random.uniform(share_key)
    is_thing = label_format.thing_table()
    is_stuff = np.zeros_like(is_thing)
    is_stuff[list(label_format.stuff_classes)] = True
    is_kept = is_thing | (is_stuff & (jax.random.uniform(stuff_key, is_stuff.shape) < share))
    is_kept &= jax.random.uniform(draw_key) < probability
    (image, panoptic), (pasted_image, pasted_panoptic) = sample, pasted
    divisor = label_format.label_divisor
    semantic, instance = pasted_panoptic // divisor, pasted_panoptic % divisor
    is_on_top = lookup(jnp.asarray(is_kept, jnp.int32), semantic) > 0
    renamed = jnp.where(instance > 0, divisor - 1 - instance, 0) + semantic * divisor
    return (
        jnp.where(is_on_top[..., None], pasted_image, image),
        jnp.where(is_on_top, renamed, panoptic),
    )
