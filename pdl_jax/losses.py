"""The losses of Panoptic-DeepLab and, the first of them, of the semantic DeepLabs, averaged per sample as in DeepLab2."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array

SCOPES = ('image', 'batch')


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """How the terms are averaged and weighted.

    Attributes:
      semantic_weight, center_weight, offset_weight: of the terms. detectron2's 0.01 for offsets is 0.02 here, because it
        divides the sum of both channels by the number of pixels.
      top_k_fraction: share of the pixels, the hardest, that count in the semantic term.
      scope: 'image' averages each image over its own pixels that have any loss, then the images (DeepLab2). 'batch' averages over
        all images at once: the hardest pixels over their number, void ones among them, centres and offsets over the sum of
        their weights (bowenc0221, detectron2). Theirs is the batch of one GPU, ours that of all devices.
    """

    semantic_weight: float = 1.0
    center_weight: float = 200.0
    offset_weight: float = 0.01
    top_k_fraction: float = 0.2
    scope: str = 'image'

    def __post_init__(self):
        if self.scope not in SCOPES:
            raise ValueError(f'loss.scope (={self.scope!r}) must be one of {SCOPES}')


def panoptic_loss(
    outputs: dict[str, Array],
    targets: dict[str, Array],
    *,
    ignore_label: int,
    options: LossOptions,
) -> tuple[Array, dict[str, Array]]:
    """Adds up the weighted losses.

    Args:
      outputs: at full resolution: 'semantic' f32[B, H, W, C] and, of a network with an instance branch, 'center'
        f32[B, H, W, 1] and 'offset' f32[B, H, W, 2].
      targets: a batch of `preprocess.targets.make_targets`.
      ignore_label: semantic value of void pixels.
      options: weights and the hard-pixel share.

    Returns:
      The total f32[], a mean over the batch, and its weighted terms, each f32[], by the keys of `outputs`.
    """
    semantic = weighted_cross_entropy(
        outputs['semantic'], targets['semantic'], targets['semantic_weight'], ignore_label
    )
    maps = {'semantic': semantic}
    if 'center' in outputs:
        center = (outputs['center'][..., 0] - targets['center']) ** 2
        offset = jnp.mean(jnp.abs(outputs['offset'] - targets['offset']), axis=-1)
        maps['center'] = center * targets['center_weight']
        maps['offset'] = offset * targets['offset_weight']
    terms = {}
    for key, losses in maps.items():
        if options.scope == 'image':
            fraction = options.top_k_fraction if key == 'semantic' else 1.0
            mean = jnp.mean(top_k_mean(losses, fraction))
        elif key == 'semantic':
            mean = _hardest_mean(losses, options.top_k_fraction)
        else:
            mean = jnp.sum(losses) / jnp.maximum(jnp.sum(targets[f'{key}_weight']), 1e-6)
        terms[key] = getattr(options, f'{key}_weight') * mean
    return sum(terms.values()), terms


def weighted_cross_entropy(
    logits: Array, labels: Array, weight: Array, ignore_label: int
) -> Array:
    """Softmax cross entropy per pixel times its weight; 0 where the label is `ignore_label`.

    Args:
      logits: f32[B, H, W, C].
      labels: i32[B, H, W].
      weight: f32[B, H, W].
      ignore_label: label of pixels without loss; need not be a class.

    Returns:
      f32[B, H, W].
    """
    # A comparison instead of a gather: it fuses, and its gradient is no scatter.
    is_label = labels[..., None] == jnp.arange(logits.shape[-1])
    picked = jnp.sum(logits, axis=-1, where=is_label)
    loss = jax.nn.logsumexp(logits, axis=-1) - picked
    # Where, not a product: an infinite logit on a void pixel must not turn the loss into NaN.
    return jnp.where(labels == ignore_label, 0.0, loss * weight)


def top_k_mean(losses: Array, fraction: float) -> Array:
    """Averages the hardest pixels of each sample over those of them that are not exactly zero.

    Args:
      losses: f32[B, H, W], not negative.
      fraction: share of all pixels, void ones included, that is kept; 1 keeps all.

    Returns:
      f32[B], 0 where every kept loss is zero.

    Source: DeepLab2's model/loss/base_loss.py. With pixels tied at the threshold the sum is the same whichever are kept; their
    gradient is shared evenly here.
    """
    losses = losses.reshape(losses.shape[0], -1)
    count = losses.shape[1]
    kept = round(fraction * count)
    number = jnp.minimum(jnp.sum(losses > 0, axis=1), kept)
    if kept < count:
        losses = losses * _hard_pixel_mask(jax.lax.stop_gradient(losses), kept)
    return jnp.sum(losses, axis=1) / jnp.maximum(number, 1)


def _hardest_mean(losses, fraction):
    """f32[], the mean of the hardest pixels of a whole batch f32[B, H, W], those without loss among them."""
    losses = losses.reshape(1, -1)
    kept = max(1, int(fraction * losses.shape[1]))
    if kept < losses.shape[1]:
        losses = losses * _hard_pixel_mask(jax.lax.stop_gradient(losses), kept)
    return jnp.sum(losses) / kept


def _hard_pixel_mask(losses, kept):
    """f32[B, N] that is 1 on the `kept` largest losses; ties at the threshold share what is left of `kept`."""
    threshold = _kth_largest(losses, kept)[:, None]
    above = losses > threshold
    tied = losses == threshold
    left = kept - jnp.sum(above, axis=1, keepdims=True)
    share = left / jnp.maximum(jnp.sum(tied, axis=1, keepdims=True), 1)
    return above + tied * share


def _kth_largest(values, k):
    """f32[B], the exact k-th largest of non-negative f32[B, N], by bisection over their bits.

    The bits of non-negative floats sort like integers, so 31 counts find the value exactly: no sort of millions of pixels.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def refine(i, found):
        candidate = found | (1 << (30 - i))
        enough = jnp.sum(bits >= candidate[:, None], axis=1) >= k
        return jnp.where(enough, candidate, found)

    found = jax.lax.fori_loop(0, 31, refine, jnp.zeros(values.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
