"""The computation of networks whose units halt, for losses, reports and pictures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.adaptive_computation import COLLECTION, list_stages, ponder_cost
from pdl_jax.models.summary import add_up, summarize
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array, PyTree


class Computation(NamedTuple):
    """The computation of an adaptive network on a batch.

    Attributes:
      ponder: f32[B, H, W], the ponder cost at the size of the images: units run, and remainders, of
        all stages.
      skipped: i32[B, K], positions of each of K layers that need not be computed.
      multiply_adds: i32[K], those of each layer at one position.
    """

    ponder: Array
    skipped: Array
    multiply_adds: Array


def measure_computation(
    network: nn.Module, variables: PyTree, images: Array, *, resize: str
) -> Computation:
    """Measures what a network spends on f32[B, H, W, C]; `resize` as in `resize_bilinear`.

    The compiler leaves out what comes behind the stages that halt.
    """
    _, collections = network.apply(variables, images, mutable=[COLLECTION])
    stages = list_stages(collections)
    height, width = images.shape[1:3]
    ponder = jnp.zeros((images.shape[0], height, width, 1))
    for stage in stages:
        resized: Array = resize_bilinear(stage.ponder[..., None], (height, width), resize)
        ponder = ponder + resized
    return Computation(
        ponder=ponder[..., 0],
        skipped=jnp.concatenate([stage.skipped for stage in stages], axis=-1),
        multiply_adds=jnp.concatenate([stage.multiply_adds for stage in stages]),
    )


def add_ponder_loss(
    loss: Array,
    terms: Mapping[str, Array],
    collections: dict[str, Any],
    weight: float,
) -> tuple[Array, dict[str, Array]]:
    """Adds the term 'ponder' to the loss of a network whose units halt.

    Args:
      loss: f32[].
      terms: its terms by name.
      collections: those that the network updated; that of the stages is taken out.
      weight: see `LossOptions.ponder_weight`.

    Returns:
      The loss and its terms; those that were given if no unit halts.
    """
    stages = list_stages(collections)
    collections.pop(COLLECTION, None)
    if not stages:
        return loss, dict(terms)
    ponder = weight * ponder_cost(stages)
    return loss + ponder, {**terms, 'ponder': ponder}


def count_multiply_adds(network: nn.Module, size: tuple[int, int], num_channels: int) -> int:
    """Counts the multiply-adds of a network on one image of `size` if nothing is skipped."""
    return add_up(summarize(network, size, num_channels=num_channels)).multiply_adds
