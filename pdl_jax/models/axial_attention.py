"""Position-sensitive attention along the height and the width of a feature map."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.blocks import Conv, LayerOptions, batch_norm, check_choices
from pdl_jax.ops.precise_products import einsum_float32
from pdl_jax.typing import Array

# Distances further than this share an embedding.
MAX_DISTANCE = 254


class AxialAttention2D(nn.Module):
    """Attention along the height, then along the width: every pixel reaches every other in two.

    Attributes:
      key_features: channels of the queries and of the keys, over all heads.
      value_features: channels of the values and of the result, over all heads.
      num_heads: attention maps per axis; divides both.
      stride: pixels per pixel of the result. Each attention sees all pixels of its axis; its result
        is subsampled.
      options: options of all layers.

    Source: Wang et al., Axial-DeepLab, ECCV 2020; strides as in DeepLab2.
    """

    key_features: int
    value_features: int
    num_heads: int = 8
    stride: int = 1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps float[B, h, w, C] to float[B, ceil(h / stride), ceil(w / stride), V]."""
        for axis, name in ((1, 'height_axis'), (2, 'width_axis')):
            attention = AxialAttention(
                self.key_features,
                self.value_features,
                self.num_heads,
                axis,
                options=self.options,
                name=name,
            )
            x = attention(x, train=train)
            x = x[:, :: self.stride] if axis == 1 else x[:, :, :: self.stride]
        return x


class AxialAttention(nn.Module):
    """Attention among the pixels of each column (axis 1) or of each row (axis 2).

    The logit of query l and key m is q_l k_m + q_l r^q_(m - l) + k_m r^k_(m - l), where r are
    learned embeddings of the distance that all heads share. Each of the three terms is normalised
    by a BatchNorm instead of scaled by the root of the key size. A query retrieves the weighted sum
    of the values and that of a third set of embeddings, which are normalised and added.

    Attributes:
      key_features: channels of the queries and of the keys, over all heads.
      value_features: channels of the values and of the result, over all heads.
      num_heads: attention maps; divides both.
      axis: 1 or 2.
      options: options of all layers.

    Raises:
      ValueError: `num_heads` does not divide the channels, or `axis` is another.

    Source: Wang et al., Axial-DeepLab, ECCV 2020, equation 4; the norms from DeepLab2.
    """

    key_features: int
    value_features: int
    num_heads: int = 8
    axis: int = 1
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, {'axis': (1, 2)})
        for field in ('key_features', 'value_features'):
            if getattr(self, field) % self.num_heads:
                raise ValueError(
                    f'AxialAttention {field} (={getattr(self, field)}) must be a multiple of '
                    f'num_heads (={self.num_heads})'
                )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps float[B, h, w, C] to float[B, h, w, V]."""
        dtype = self.options.dtype
        x = Conv(
            2 * self.key_features + self.value_features,
            kernel_init=nn.initializers.truncated_normal(x.shape[-1] ** -0.5),
            options=self.options,
            name='query_key_value',
        )(x)
        x = batch_norm(self.options, train=train, name='query_key_value_norm')(x)
        query, key, value = (
            part.reshape(*x.shape[:3], self.num_heads, -1)
            for part in jnp.split(x, [self.key_features, 2 * self.key_features], axis=-1)
        )
        query_position = self._embed_distances('query_position', query).astype(dtype)
        key_position = self._embed_distances('key_position', key).astype(dtype)
        value_position = self._embed_distances('value_position', value).astype(dtype)

        # l and m: places on the axis of attention; o: on the other; n: heads.
        queries, keys = ('blond', 'bmond') if self.axis == 1 else ('bolnd', 'bomnd')
        similarities = (
            einsum_float32(f'{queries},{keys}->bonlm', query, key),
            einsum_float32(f'{queries},lmd->bonlm', query, query_position),
            einsum_float32(f'{keys},lmd->bonlm', key, key_position),
        )
        logits = NormalizedSum(2, self.options, name='similarity_norm')(similarities, train=train)
        weights = jax.nn.softmax(logits).astype(dtype)
        retrieved = (
            einsum_float32(f'bonlm,{keys}->{queries}', weights, value),
            einsum_float32(f'bonlm,lmd->{queries}', weights, value_position),
        )
        x = NormalizedSum(3, self.options, name='retrieved_norm')(
            [part.reshape(*x.shape[:3], -1) for part in retrieved], train=train
        )
        return x.astype(dtype)

    def count_multiply_adds(self, shape: Sequence[int]) -> int:
        """Counts the multiply-adds of attention on [B, h, w, C], its projection aside."""
        pairs = math.prod(shape[:3]) * shape[self.axis]
        return pairs * (3 * self.key_features + 2 * self.value_features)

    def _embed_distances(self, name: str, features: Array) -> Array:
        """Returns the embedding of the distance m - l for all pairs, f32[L, L, d]."""
        shape = (2 * MAX_DISTANCE + 1, features.shape[-1])
        init = nn.initializers.truncated_normal(1.0)
        table = self.param(name, init, shape, jnp.float32)
        return spread_distances(table, features.shape[self.axis])


class NormalizedSum(nn.Module):
    """The sum of several maps after one BatchNorm over the channels of all of them.

    It has the variables of the `nn.BatchNorm` of their concatenation, and its values, but never
    writes that: the maps of similarities are the largest arrays of axial attention.

    Attributes:
      axis: the channel axis.
      options: options of the layer; the result is float32 whatever its dtype.
    """

    axis: int
    options: LayerOptions

    @nn.compact
    def __call__(self, terms: Sequence[Array], *, train: bool) -> Array:
        """Maps arrays of one shape [..., C, ...] to their sum, f32[..., C, ...]."""
        channels = terms[0].shape[self.axis]
        shape = (len(terms) * channels,)
        scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
        variance = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
        terms = [term.astype(jnp.float32) for term in terms]
        if not train or self.options.is_norm_frozen:
            means, variances = mean.value, variance.value
        else:
            means, variances = self._find_moments(terms)
            if not self.is_initializing():
                momentum = self.options.norm_momentum
                mean.value = momentum * mean.value + (1 - momentum) * means
                variance.value = momentum * variance.value + (1 - momentum) * variances
        factors = scale * jax.lax.rsqrt(variances + self.options.norm_epsilon)
        by_channel = [channels if i == self.axis else 1 for i in range(terms[0].ndim)]
        total = bias.reshape(len(terms), channels).sum(0).reshape(by_channel)
        moments = zip(jnp.split(means, len(terms)), jnp.split(factors, len(terms)), strict=True)
        for term, (center, factor) in zip(terms, moments, strict=True):
            total = total + (term - center.reshape(by_channel)) * factor.reshape(by_channel)
        return total

    def _find_moments(self, terms: Sequence[Array]) -> tuple[Array, Array]:
        axes = [i for i in range(terms[0].ndim) if i != self.axis]
        means = jnp.concatenate([term.mean(axes) for term in terms])
        squares = jnp.concatenate([(term * term).mean(axes) for term in terms])
        return means, jnp.maximum(squares - means * means, 0)


def spread_distances(table: Array, length: int) -> Array:
    """Looks the embedding of the distance m - l up for all pairs of places (l, m).

    Distances beyond the table have its outermost embeddings. The pairs are slices and reshapes of
    the table, whose gradient is a sum; that of a gather would be a scatter of length^2 rows.

    Args:
      table: float[2 * D + 1, d], the embeddings of the distances -D to D.
      length: number of places.

    Returns:
      float[length, length, d].
    """
    outside = length - 1 - table.shape[0] // 2
    if outside > 0:
        table = jnp.pad(table, ((outside, outside), (0, 0)), mode='edge')
    elif outside < 0:
        table = table[-outside:outside]
    # Rows of one element less than the period shift by one element each.
    period = 2 * length
    rows = jnp.pad(table, ((0, 1), (0, 0)))
    rows = jnp.broadcast_to(rows, (length, *rows.shape)).reshape(length * period, -1)
    return rows[:-length].reshape(length, period - 1, -1)[:, length - 1 :]
