"""The heads of a mask transformer: a mask and a class for each query."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.models.blocks import ConvNorm, LayerOptions, batch_norm
from pdl_jax.models.heads import predict
from pdl_jax.ops.precise_products import einsum_float32
from pdl_jax.typing import Array

# Initial scale of the masks' BatchNorm.
_MASK_SCALE = 0.1
# Share of queries that the initial bias takes for void.
_VOID_PRIOR = 0.9
_NORM_FLOOR = 1e-12


class MaskPredictor(nn.Module):
    """Predicts the masks and classes of queries from pixel and query features.

    Attributes:
      num_classes: classes, void excluded.
      features: channels of the convolutions over pixels.
      mask_features: channels of the product of pixels and queries.

    Source: Wang et al., MaX-DeepLab, CVPR 2021; DeepLab2's model/decoder/max_deeplab.py.
    """

    num_classes: int
    features: int = 256
    mask_features: int = 128
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(
        self, pixels: Array, mask_embedding: Array, class_embedding: Array, *, train: bool
    ) -> dict[str, Array]:
        """Predicts masks and classes.

        Args:
          pixels: float[B, h, w, C].
          mask_embedding: float[B, 1, N, D], queries that become mask kernels.
          class_embedding: float[B, 1, N, D], queries that are classified.
          train: see `blocks.batch_norm`.

        Returns:
          'mask_logits': f32[B, h, w, N]; 'class_logits': f32[B, N, K + 1], void last;
          'pixel_feature': f32[B, h, w, mask_features] of unit length.
        """
        precise = dataclasses.replace(self.options, dtype=jnp.float32)
        feature = self._pixel_feature(pixels, train)
        kernel = ConvNorm(
            self.mask_features, activation=None, options=self.options, name='mask_kernel'
        )(mask_embedding, train=train)
        dtype = self.options.dtype
        logits = einsum_float32(
            'bhwd,bnd->bhwn',
            feature.astype(dtype),
            kernel[:, 0].astype(dtype),
            precision=lax.Precision.HIGHEST,
        )
        # One mean and one variance for all queries and pixels: there is no axis of features.
        norm = batch_norm(
            precise,
            train=train,
            scale_init=nn.initializers.constant(_MASK_SCALE),
            axis=(),
            name='mask_norm',
        )
        classes = predict(class_embedding, self.num_classes + 1, self.options, name='class_logits')
        odds = self.num_classes * _VOID_PRIOR / (1 - _VOID_PRIOR)
        prior = np.zeros(self.num_classes + 1, np.float32)
        prior[-1] = math.log(odds)
        return {
            'mask_logits': norm(logits),
            'class_logits': classes[:, 0] + prior,
            'pixel_feature': feature,
        }

    def _pixel_feature(self, x: Array, train: bool) -> Array:
        options = self.options
        x = ConvNorm(x.shape[-1], 5, is_depthwise=True, options=options, name='depthwise')(
            x, train=train
        )
        x = ConvNorm(self.features, options=options, name='pointwise')(x, train=train)
        x = ConvNorm(
            self.mask_features,
            activation=None,
            has_bias=True,
            options=options,
            name='project',
        )(x, train=train)
        x = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))
        return x / jnp.maximum(length, _NORM_FLOOR)


def learn_queries(module: nn.Module, num: int, features: int, batch: int, dtype: Any) -> Array:
    """Makes the queries that a network begins with, as a parameter of the module being called.

    Returns:
      float[B, 1, num, features] of `dtype`, the same for all images of the batch.
    """
    init = nn.initializers.truncated_normal(1.0)
    queries = module.param('queries', init, (num, features), jnp.float32).astype(dtype)
    return jnp.broadcast_to(queries, (batch, 1, num, features))


def predict_masks(
    pixels: Array,
    queries: Array,
    num_classes: int,
    mask_features: int,
    options: LayerOptions,
    *,
    train: bool,
) -> dict[str, Array]:
    """Predicts by the last queries of a network, as children of the module being called.

    Args:
      pixels: float[B, h, w, C].
      queries: float[B, 1, N, D].
      num_classes, mask_features, options: see `MaskPredictor`, whose other features are D.
      train: see `blocks.batch_norm`.

    Returns:
      See `MaskPredictor`.
    """
    width = queries.shape[-1]
    embeddings = [
        ConvNorm(width, options=options, name=f'{name}_embedding')(queries, train=train)
        for name in ('mask', 'class')
    ]
    predictor = MaskPredictor(num_classes, width, mask_features, options, name='predictor')
    return predictor(pixels, *embeddings, train=train)
