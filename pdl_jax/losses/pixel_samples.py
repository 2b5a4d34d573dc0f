"""Losses on random pixels: their choice, instance discrimination, sampled semantic losses."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.upsampled_logits import cross_entropy_upsampled
from pdl_jax.typing import Array

# Added to the log weight of void pixels, which are drawn if no others are left.
_VOID = -99999.0
# Rows of the similarities of all samples that are in memory at once.
_ROWS_PER_BLOCK = 256


def sample_pixels(
    log_share: Array, is_void: Array, uniform: Array, *, count: int, temperature: float
) -> Array:
    """Draws pixels without replacement, those of small segments more often.

    The Gumbel trick: the largest of log weight + noise are a sample by weight.

    Args:
      log_share: f32[h, w], log of the map's pixels over those of the pixel's segment.
      is_void: bool[h, w].
      uniform: f32[h * w], noise in [0, 1).
      count: number of pixels; of a map with no more all are taken.
      temperature: power of the inverse area that is the weight.

    Returns:
      i32[count], ascending indices into the flattened map.
    """
    if count >= log_share.size:
        return jnp.arange(log_share.size, dtype=jnp.int32)
    weight = log_share * temperature + jnp.where(is_void, _VOID, 0.0)
    _, index = lax.top_k(weight.reshape(-1) - jnp.log(-jnp.log(uniform)), count)
    # In ascending order rows are read from memory, and their gradients added, more quickly.
    return jnp.sort(index)


def take_pixels(x: Array, index: Array) -> Array:
    """Reads pixels of a map: [h, w, ...] and i32[S], distinct and ascending, to [S, ...]."""
    rows = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    if index.shape[0] == rows.shape[0]:
        return rows
    return rows.at[index].get(
        indices_are_sorted=True, unique_indices=True, mode='promise_in_bounds'
    )


def instance_discrimination(
    features: Array, owner: Array, *, num: int, temperature: float
) -> Array:
    """Contrasts pixels: those of a segment should be similar, and those of others not.

    The loss of a pixel is the cross entropy of its similarities to all samples, itself included,
    and the equal distribution over those of its segment: normaliser - mean similarity, so that only
    blocks of the similarities are ever in memory.

    Args:
      features: f32[S, D], of length 1.
      owner: i32[S] in [0, num), the segment of each; -1 for void, which only repels.
      num: number of segments.
      temperature: divides the similarities.

    Returns:
      f32[], the mean over pixels that are not void.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022, its program.
    """

    normalizer: Array = _normalizers(features, temperature)
    members = jax.nn.one_hot(owner, num, dtype=jnp.float32)
    area = jnp.maximum(jnp.sum(members, axis=0), 1.0)
    highest = lax.Precision.HIGHEST
    mean = jnp.einsum('sn,sd->nd', members, features, precision=highest) / area[:, None]
    similarity = jnp.einsum('sd,nd->sn', features, mean, precision=highest) / temperature
    losses = normalizer - jnp.sum(similarity * members, axis=1)
    is_counted = owner >= 0
    return jnp.sum(jnp.where(is_counted, losses, 0.0)) / jnp.maximum(jnp.sum(is_counted), 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalizers(features: Array, temperature: float) -> Array:
    """Computes the log of the sum of exp(similarity) of each sample to all: f32[S]."""
    return _normalize(features, temperature)[0]


def _normalize(features: Array, temperature: float) -> tuple[Array, tuple[Array, Array]]:
    # No similarity is larger, by Cauchy and Schwarz: one pass less than for the maximum of each.
    bound = jnp.max(jnp.sum(features * features, axis=1)) / temperature

    def normalize(block: Array) -> Array:
        similarity = _similarities(features, block, temperature)
        return bound + jnp.log(jnp.sum(jnp.exp(similarity - bound), axis=0))

    normalizer = lax.map(normalize, _split(features)).reshape(-1)[: len(features)]
    return normalizer, (features, normalizer)


def _differentiate(
    temperature: float, residual: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    """Weights all samples by their share in a sample's normaliser, and by its in theirs."""
    features, normalizer = residual

    def differentiate(block: tuple[Array, Array, Array]) -> Array:
        rows, row_normalizer, row_gradient = block
        similarity = _similarities(features, rows, temperature)
        share = jnp.exp(similarity - row_normalizer) * row_gradient
        share = share + jnp.exp(similarity - normalizer[:, None]) * gradient[:, None]
        return jnp.einsum('sb,sd->bd', share, features, precision=lax.Precision.HIGH) / temperature

    blocks = (_split(features), _split(normalizer), _split(gradient))
    of_features = lax.map(differentiate, blocks)
    return (of_features.reshape(-1, features.shape[1])[: len(features)],)


_normalizers.defvjp(_normalize, _differentiate)


def _similarities(features: Array, rows: Array, temperature: float) -> Array:
    """Returns f32[S, rows]: sums over the first axis are vectorised on a CPU."""
    # Three passes of bfloat16 on a TPU: an error of 1e-5 beside similarities of 3.
    return jnp.einsum('sd,bd->sb', features, rows, precision=lax.Precision.HIGH) / temperature


def _split(x: Array) -> Array:
    """Splits [S, ...] into blocks of rows, the last one padded by zeros."""
    rows = min(_ROWS_PER_BLOCK, len(x))
    x = jnp.pad(x, ((0, -len(x) % rows), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, rows, *x.shape[1:])


def semantic_loss(
    logits: Array,
    semantic: Array,
    weight: Array,
    index: Array | None,
    mean: Callable[[Array], Array],
) -> Array:
    """Averages the cross entropy of classes over pixels.

    Args:
      logits: f32[B, h, w, C].
      semantic: i32[B, h, w], classes in [0, C); -1 for pixels without a loss.
      weight: f32[B, h, w], factors of the losses.
      index: i32[B, S], pixels to use, see `sample_pixels`; None for all.
      mean: averages the losses f32[B, h, w] of all pixels: f32[B].

    Returns:
      f32[], the mean over the batch; of samples, it counts those whose loss is not zero.
    """
    if index is not None:
        logits, semantic, weight = (
            jax.vmap(take_pixels)(x, index)[:, None] for x in (logits, semantic, weight)
        )
    # Batched rows of one pixel map, of the size of the labels: nothing is upsampled.
    losses: Array = cross_entropy_upsampled(logits, jnp.maximum(semantic, 0), 'corner_aligned')
    losses = jnp.where(semantic >= 0, losses * weight, 0.0)
    return jnp.mean(mean_of_nonzero(losses) if index is not None else mean(losses))


def mean_of_nonzero(losses: Array) -> Array:
    """Averages [B, ...] over all that is not exactly zero: f32[B]."""
    axes = tuple(range(1, losses.ndim))
    return jnp.sum(losses, axes) / jnp.maximum(jnp.sum(losses != 0, axes), 1)
