"""The loss of classifiers."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.typing import Array, check_not_negative


@dataclasses.dataclass(frozen=True)
class ClassLossOptions:
    """Weights of the terms beside the cross entropy, whose weight is 1.

    Attributes:
      ponder_weight: weight of the ponder cost of a backbone with `adaptive_computation`, see
        `losses.panoptic_deeplab.LossOptions`.
    """

    ponder_weight: float = 0.005

    def __post_init__(self) -> None:
        check_not_negative('loss', self, 'ponder_weight')


def class_losses(logits: Array, targets: Array) -> Array:
    """Computes the cross entropy of each image, f32[B], in nats.

    Args:
      logits: f32[B, C].
      targets: f32[B, C], probabilities; an image whose targets are zeros has no loss.
    """
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
