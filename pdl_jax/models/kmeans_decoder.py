"""kMaX-DeepLab's transformer decoder: queries are cluster centres that pixels are assigned to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.models.attention import attend
from pdl_jax.models.blocks import (
    ConvNorm,
    LayerOptions,
    batch_norm,
    drop_path,
    project_branch,
)
from pdl_jax.models.mask_predictor import MaskPredictor
from pdl_jax.ops.precise_products import einsum_float32
from pdl_jax.typing import Array


class KMeansLayer(nn.Module):
    """One update of the queries: a step of k-means, self-attention, a feed-forward network.

    Every pixel is assigned to the query with its highest mask logit, and each query adds the sum of
    its pixels' values. Queries are float[B, 1, N, D], a map of one row, so that layers of pixels
    serve them too.

    Attributes:
      num_classes: classes, void excluded.
      features: channels D of queries and pixels inside the layer.
      mask_features: see `MaskPredictor`.
      ffn_features: hidden channels of the feed-forward network.
      num_heads: heads of self-attention.
      keep_prob: share of images that keep each of the three residual branches in training.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022; DeepLab2's
    model/transformer_decoder/kmax.py.
    """

    num_classes: int
    features: int = 256
    mask_features: int = 128
    ffn_features: int = 2048
    num_heads: int = 8
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self, pixels: Array, queries: Array, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Updates queries from float[B, h, w, C] pixels; returns them and what they predicted."""
        options = self.options
        x = ConvNorm(self.features, options=options, name='pixels')(
            options.activation(pixels), train=train
        )
        query = ConvNorm(self.features, options=options, name='queries')(queries, train=train)
        values = ConvNorm(
            self.features,
            activation=None,
            kernel_init=nn.initializers.normal(self.features**-0.5),
            options=options,
            name='values',
        )(x, train=train)
        predictor = MaskPredictor(
            self.num_classes, self.features, self.mask_features, options, name='predictor'
        )
        prediction = predictor(x, query, query, train=train)

        centers = sum_by_query(prediction['mask_logits'], values)[:, None]
        centers = batch_norm(options, train=train, name='centers_norm')(centers)
        queries = self._add(queries, centers, 'centers', train)

        attention = SelfAttention(self.features, self.num_heads, options, name='self_attention')
        retrieved = options.activation(attention(query, train=train))
        queries = self._add(queries, retrieved, 'attention', train)
        queries = options.activation(queries)

        hidden = ConvNorm(self.ffn_features, options=options, name='ffn_expand')(
            queries, train=train
        )
        queries = self._add(queries, hidden, 'ffn_project', train)
        return options.activation(queries), prediction

    def _add(self, queries: Array, x: Array, name: str, train: bool) -> Array:
        """Adds the residual branch that ends with features `x`."""
        branch = project_branch(x, self.features, self.options, train=train, name=name)
        return queries + drop_path(self, branch, self.keep_prob, train=train)


def sum_by_query(mask_logits: Array, values: Array) -> Array:
    """Sums the values of the pixels that are assigned to each query.

    Args:
      mask_logits: f32[B, h, w, N]; a pixel belongs to the query with the highest, the first on
        ties. No gradient passes.
      values: float[B, h, w, D].

    Returns:
      f32[B, N, D]; the sum over the queries is that over the pixels.
    """
    assignment = jnp.argmax(lax.stop_gradient(mask_logits), axis=-1)
    # Zeros and ones are exact in every dtype, and the sums are float32's.
    is_query = jax.nn.one_hot(assignment, mask_logits.shape[-1], dtype=values.dtype)
    return einsum_float32('bhwn,bhwd->bnd', is_query, values, precision=lax.Precision.HIGHEST)


class SelfAttention(nn.Module):
    """Attention among queries, float[B, 1, N, D], see `attention.attend`.

    Attributes:
      features: channels of the values; queries and keys have half as many.
      num_heads: heads.

    Source: DeepLab2's model/layers/dual_path_transformer.py.
    """

    features: int
    num_heads: int = 8
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        batch, _, num, _ = x.shape
        width = self.features
        parts = ConvNorm(
            2 * width,
            activation=None,
            kernel_init=nn.initializers.normal(x.shape[-1] ** -0.5),
            options=self.options,
            name='query_key_value',
        )(x, train=train)
        query, key, value = (
            part.reshape(batch, num, self.num_heads, -1)
            for part in jnp.split(parts[:, 0], (width // 2, width), axis=-1)
        )
        return attend(query, key, value, self.options, train=train)
