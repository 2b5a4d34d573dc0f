"""The queries that compete for each pixel, from mask logits resampled block by block."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.resampled_logits import Taps, map_resampled
from pdl_jax.typing import Array

# Far below any share that counts, lest a pixel without a detected query divide by zero.
_SMALLEST = 1e-30


class PixelQueries(NamedTuple):
    """The queries of each pixel, in the order of their probabilities.

    Attributes:
      first: i32[B, H, W], the most likely query, the lower one on ties; N where its probability is
        not above the threshold, or where it is not detected.
      second: i32[B, H, W], the next one; N where its probability is not above the threshold.
      first_probability: f32[B, H, W], also where `first` is N.
      second_probability: f32[B, H, W], likewise.
      semantic: i32[B, H, W], class in [0, K) of the highest expected probability.
      semantic_probability: f32[B, H, W], that probability.
    """

    first: Array
    second: Array
    first_probability: Array
    second_probability: Array
    semantic: Array
    semantic_probability: Array


def find_queries(
    mask_logits: Array,
    class_probability: Array,
    is_detected: Array | None,
    rows: Taps,
    columns: Taps,
    *,
    threshold: Array | float,
    num_rows: Array | None,
) -> PixelQueries:
    """Finds the queries that may own each pixel, and its class.

    The softmax is one over all queries, or over the detected ones. Then a pixel whose most likely
    query is not detected has none.

    Args:
      mask_logits: f32[B, h, w, N].
      class_probability: f32[B, N, K], void left out.
      is_detected: bool[B, N]; None for all.
      rows, columns, num_rows: see `map_resampled`.
      threshold: lowest probability of a query that owns a pixel, exclusive.
    """
    batch, num_queries = mask_logits.shape[0], mask_logits.shape[3]
    threshold = jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), (batch,))
    return map_resampled(
        functools.partial(_find_in_block, num_queries),
        mask_logits,
        rows,
        columns,
        class_probability,
        is_detected,
        threshold,
        num_rows=num_rows,
    )


def _find_in_block(
    num_queries: int,
    logits: Array,
    class_probability: Array,
    is_detected: Array | None,
    threshold: Array,
) -> PixelQueries:
    """Reduces f32[N, R, W] over the queries."""
    highest, first = _find_highest(logits)
    shares = jnp.exp(logits - highest)
    total = jnp.sum(shares, axis=0)
    expected = jnp.einsum('nk,nrw->krw', class_probability, shares, precision=lax.Precision.HIGHEST)
    best, semantic = _find_highest(expected)
    if is_detected is None:
        first_probability = 1 / total
        is_rest = jnp.arange(num_queries)[:, None, None] != first
        second_share, second = _find_highest(jnp.where(is_rest, shares, -1))
        second_probability = second_share / total
        second = jnp.where(second_probability > threshold, second, num_queries)
    else:
        detected = jnp.where(is_detected[:, None, None], shares, 0)
        found = jnp.max(detected, axis=0)
        first_probability = found / jnp.maximum(jnp.sum(detected, axis=0), _SMALLEST)
        first = jnp.where(found == 1, first, num_queries)
        second, second_probability = jnp.full_like(first, num_queries), jnp.zeros_like(total)
    return PixelQueries(
        jnp.where(first_probability > threshold, first, num_queries),
        second,
        first_probability,
        second_probability,
        semantic,
        best / total,
    )


def _find_highest(values: Array) -> tuple[Array, Array]:
    """Returns the maximum over axis 0 and its lowest index, i32.

    Two plain reductions, of which XLA:CPU vectorises both, unlike the argmax.
    """
    highest = jnp.max(values, axis=0)
    number = lax.broadcasted_iota(jnp.int32, values.shape, 0)
    return highest, jnp.min(jnp.where(values == highest, number, values.shape[0] - 1), axis=0)
