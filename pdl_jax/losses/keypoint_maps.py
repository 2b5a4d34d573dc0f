"""Losses of DeeperLab: bootstrapped cross entropy, keypoints, offsets."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.losses.panoptic_deeplab import hard_pixel_mask
from pdl_jax.ops.keypoints import EDGES
from pdl_jax.ops.upsampled_logits import cross_entropy_upsampled
from pdl_jax.typing import Array, check_not_negative


@dataclasses.dataclass(frozen=True)
class KeypointLossOptions:
    """Weights of the terms.

    The paper does not print the weights: those of the instance branch are a choice that brings the
    terms to the size of the semantic one.

    Attributes:
      semantic_weight, keypoint_weight: of the cross entropies.
      short_weight, middle_weight, long_weight: of the mean absolute errors of offsets, in 1 / pixel
        of the crop.
      top_k_fraction: share of the pixels, those with the least probable true class, that count in
        the semantic term.
      ponder_weight: weight of the ponder cost of a backbone with `adaptive_computation`, see
        `losses.panoptic_deeplab.LossOptions`.
    """

    semantic_weight: float = 1.0
    keypoint_weight: float = 4.0
    short_weight: float = 0.1
    middle_weight: float = 0.02
    long_weight: float = 0.02
    top_k_fraction: float = 0.15
    ponder_weight: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.top_k_fraction <= 1:
            raise ValueError(
                f'config.loss.top_k_fraction (={self.top_k_fraction!r}) must lie in (0, 1]'
            )
        weights = (f.name for f in dataclasses.fields(self) if f.name.endswith('_weight'))
        check_not_negative('loss', self, *weights)


def keypoint_map_losses(
    outputs: dict[str, Array],
    targets: dict[str, Array],
    *,
    ignore_label: int,
    options: KeypointLossOptions,
    resize: str = 'corner_aligned',
) -> dict[str, Array]:
    """Computes the weighted losses of each image.

    Args:
      outputs: the network's, all but 'semantic' at the size of the targets.
      targets: those of `preprocess.keypoint_targets.make_keypoint_targets`, batched.
      ignore_label: semantic value of void pixels; need not be a class.
      options: weights and the hard-pixel share.
      resize: mode of upsampling the logits, see `ops.resize.resize_bilinear`.

    Returns:
      f32[B] by the keys of `outputs`.

    Source: Yang et al., DeeperLab, arXiv 1902.05093, section 3.
    """
    discs = targets['keypoint']
    regions = {
        'short': discs,
        'middle': jnp.stack([discs[..., start] for start, _ in EDGES], axis=-1),
        'long': targets['long_weight'][..., None],
    }
    labels = targets['semantic']
    cross_entropy: Array = cross_entropy_upsampled(outputs['semantic'], labels, resize)
    losses = {
        'semantic': bootstrapped_mean(
            # Use `where`, not a mask product: inf * 0 is NaN.
            jnp.where(labels == ignore_label, 0.0, cross_entropy),
            targets['semantic_weight'],
            options.top_k_fraction,
        ),
        'keypoint': _weighted_mean(
            jax.nn.softplus(outputs['keypoint']) - discs * outputs['keypoint'],
            targets['keypoint_weight'][..., None],
        ),
        **{
            key: _weighted_mean(_distance(outputs[key], targets[key]), region)
            for key, region in regions.items()
        },
    }
    return {key: getattr(options, f'{key}_weight') * loss for key, loss in losses.items()}


def bootstrapped_mean(cross_entropy: Array, weight: Array, fraction: float) -> Array:
    """Averages the pixels whose true class is least probable.

    -1/K sum_i w_i 1[p_i < t_K] log p_i, where t_K leaves K pixels. Unlike Panoptic-DeepLab's, the
    weights do not take part in the choice.

    Args:
      cross_entropy: f32[B, H, W], -log p, 0 on void.
      weight: f32[B, H, W].
      fraction: share K / (H W) of the pixels, void ones included.

    Returns:
      f32[B].
    """
    batch = cross_entropy.shape[0]
    cross_entropy = cross_entropy.reshape(batch, -1)
    kept = max(1, int(fraction * cross_entropy.shape[1]))
    hardest = hard_pixel_mask(jax.lax.stop_gradient(cross_entropy), kept)
    return jnp.sum(weight.reshape(batch, -1) * cross_entropy * hardest, axis=1) / kept


def _distance(offsets: Array, targets: Array) -> Array:
    """Averages |error| over dy and dx: f32[B, H, W, N] of [B, H, W, 2 N] and [B, H, W, N, 2]."""
    difference = offsets.reshape(targets.shape) - targets
    # Not jnp.abs, whose gradient at 0 is 1.
    distance = difference * jnp.sign(jax.lax.stop_gradient(difference))
    return (distance[..., 0] + distance[..., 1]) / 2


def _weighted_mean(losses: Array, weight: Array) -> Array:
    """Averages f32[B, H, W, N] over pixels and kinds with weights that broadcast to it: f32[B]."""
    axes = (1, 2, 3)
    weight = jnp.broadcast_to(weight, losses.shape)
    return jnp.sum(losses * weight, axes) / jnp.maximum(jnp.sum(weight, axes), 1)
