"""Atrous spatial pyramid pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions, SeparableConv
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class ASPP(nn.Module):
    """Features at several scales: a 1x1 convolution, dilated 3x3 ones and an image average.

    Attributes:
      features: channels of every branch and of the result.
      rates: dilations of the 3x3 branches; (3, 6, 9) at output stride 32, doubled with every
        halving of it.
      is_separable: whether the 3x3 branches are depthwise-separable.
      has_depthwise_norm: whether BatchNorm and activation follow their depthwise convolutions.
      pool_window: (height, width) of the average in feature pixels, clipped to the map; None for
        the whole map. DeepLab2 fixes it to the training crop, so that a larger image is averaged
        over the window that the network was trained with.
      is_pool_grid: the windows lie side by side (Model Garden), instead of one at every pixel.
      pool_layer: layer between the pooling's 1x1 convolution and its activation: 'norm', 'bias' or
        'plain' (none).
      dropout_rate: dropout of the result in training.
      resize: mode of `resize_bilinear`, for the pooled map.

    Source: Chen et al., Rethinking Atrous Convolution, 2017; DeepLab2's model/layers (fixed window,
    stride 1, VALID).
    """

    features: int
    rates: tuple[int, ...]
    is_separable: bool = False
    has_depthwise_norm: bool = True
    pool_window: tuple[int, int] | None = None
    is_pool_grid: bool = False
    pool_layer: str = 'norm'
    dropout_rate: float = 0.1
    resize: str = 'corner_aligned'
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        layer = ConvNorm
        if self.is_separable:
            between = 'activation' if self.has_depthwise_norm else 'none'
            layer = functools.partial(SeparableConv, between=between)
        branches = [ConvNorm(self.features, options=self.options, name='branch_0')(x, train=train)]
        for i, rate in enumerate(self.rates, 1):
            branch = layer(
                self.features, 3, dilation=rate, options=self.options, name=f'branch_{i}'
            )
            branches.append(branch(x, train=train))
        branches.append(resize_bilinear(self._pool(x, train), x.shape[1:3], self.resize))
        x = jnp.concatenate(branches, axis=-1)
        x = ConvNorm(self.features, options=self.options, name='project')(x, train=train)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    def _pool(self, x: Array, train: bool) -> Array:
        stride = self.pool_window if self.is_pool_grid and self.pool_window else (1, 1)
        x = pool_context(self, x, self.pool_window, stride)
        if self.pool_layer == 'norm':
            return ConvNorm(self.features, options=self.options, name='pool')(x, train=train)
        has_bias = self.pool_layer == 'bias'
        x = Conv(self.features, has_bias=has_bias, options=self.options, name='pool')(x)
        return self.options.activation(x)


class Projection(nn.Module):
    """The last convolution of an `ASPP` in its place, for encoders that see the whole image."""

    features: int
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        return ConvNorm(self.features, options=self.options, name='project')(x, train=train)


def pool_context(
    module: nn.Module,
    x: Array,
    window: tuple[int, int] | None,
    stride: tuple[int, int] = (1, 1),
) -> Array:
    """Averages the features of an image, or takes the average of a larger one from the variables.

    A tile of an image is so labelled in the context of the whole: with `mutable=['context']` a
    network stores the features that it averages over the whole map, f32[B, H, W, C], and with their
    mean f32[1, 1, 1, C] in the collection 'context' it uses that.

    Args:
      module: the one that pools once.
      x, window, stride: see `average_pool`; a window is averaged as ever.
    """
    if window is None and not module.is_initializing():
        if module.is_mutable_collection('context'):
            module.put_variable('context', 'features', x)
        elif module.has_variable('context', 'features'):
            mean = module.get_variable('context', 'features')
            return jnp.broadcast_to(mean, (x.shape[0], 1, 1, x.shape[3])).astype(x.dtype)
    return average_pool(x, window, stride)


def average_pool(
    x: Array, window: tuple[int, int] | None, stride: tuple[int, int] = (1, 1)
) -> Array:
    """Averages over windows without padding.

    Args:
      x: float[B, H, W, C].
      window: (height, width) in pixels, clipped to the map; None averages the whole map.
      stride: (rows, columns) between windows.

    Returns:
      float[B, (H - height) // stride + 1, (W - width) // stride + 1, C] of the dtype of `x`,
      accumulated in float32.
    """
    size = (x.shape[1], x.shape[2])
    window = size if window is None else (min(window[0], size[0]), min(window[1], size[1]))
    if window == size:
        return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
    total = jax.lax.reduce_window(
        x.astype(jnp.float32), 0.0, jax.lax.add, (1, *window, 1), (1, *stride, 1), 'VALID'
    )
    return (total / (window[0] * window[1])).astype(x.dtype)
