"""MaX-DeepLab's transformer layer: pixels and queries read from each other."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.attention import attend
from pdl_jax.models.blocks import ConvNorm, LayerOptions, drop_path, project_branch
from pdl_jax.typing import Array


class DualPathLayer(nn.Module):
    """One exchange between pixels and queries, then a feed-forward network of the queries.

    Queries attend to pixels and queries, pixels to queries. Queries are float[B, 1, N, D], a map of
    one row, so that layers of pixels serve them too.

    Attributes:
      features: channels D of the queries, and of the values inside the layer; its keys have half
        as many.
      ffn_features: hidden channels of the feed-forward network.
      num_heads: heads of all attention.
      keep_prob: share of images that keep each of the three residual branches in training.

    Source: Wang et al., MaX-DeepLab, CVPR 2021; DeepLab2's model/layers/dual_path_transformer.py.
    """

    features: int = 256
    ffn_features: int = 2048
    num_heads: int = 8
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, pixels: Array, queries: Array, *, train: bool) -> tuple[Array, Array]:
        """Updates pixels float[B, h, w, C], not activated, and queries float[B, 1, N, D]."""
        activate = self.options.activation
        pixel_query, *pixel_keys = self._project('pixels', activate(pixels), train)
        query, *query_keys = self._project('queries', queries, train)
        keys, values = (
            jnp.concatenate(pair, axis=1) for pair in zip(pixel_keys, query_keys, strict=True)
        )
        retrieved = _Attention(self.num_heads, self.options, name='queries_attention')(
            query, keys, values, train=train
        )
        read = _Attention(self.num_heads, self.options, name='pixels_attention')(
            pixel_query, *query_keys, train=train
        ).reshape(*pixels.shape[:3], self.features)

        pixels = pixels + self._branch('pixels_output', activate(read), pixels, train)
        queries = activate(
            queries + self._branch('queries_output', activate(retrieved), queries, train)
        )
        hidden = ConvNorm(self.ffn_features, options=self.options, name='ffn_expand')(
            queries, train=train
        )
        queries = activate(queries + self._branch('ffn_project', hidden, queries, train))
        return pixels, queries

    def _project(self, name: str, x: Array, train: bool) -> list[Array]:
        """Returns queries, keys and values float[B, h * w, ...] of a map."""
        width = self.features
        x = ConvNorm(width, options=self.options, name=name)(x, train=train)
        x = ConvNorm(
            2 * width,
            activation=None,
            kernel_init=nn.initializers.truncated_normal(width**-0.5),
            options=self.options,
            name=f'{name}_query_key_value',
        )(x, train=train)
        x = x.reshape(x.shape[0], -1, 2 * width)
        return jnp.split(x, [width // 2, width], axis=-1)

    def _branch(self, name: str, x: Array, trunk: Array, train: bool) -> Array:
        """Projects the end of a residual branch, and drops it for some of the images."""
        branch = project_branch(x, trunk.shape[-1], self.options, train=train, name=name)
        return drop_path(self, branch, self.keep_prob, train=train)


class _Attention(nn.Module):
    """Attention of float[B, N, D] queries to float[B, M, D] keys."""

    num_heads: int
    options: LayerOptions

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array, *, train: bool) -> Array:
        query, key, value = (
            x.reshape(*x.shape[:2], self.num_heads, -1) for x in (query, key, value)
        )
        return attend(query, key, value, self.options, train=train)
