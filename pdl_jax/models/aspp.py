"""Atrous spatial pyramid pooling."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.blocks import ConvNorm, LayerOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class ASPP(nn.Module):
    """Looks at a feature map at several scales: 1x1, three dilated 3x3 convolutions and an image average.

    Attributes:
      features: channels of every branch and of the result.
      rates: dilations of the 3x3 branches; (3, 6, 9) at output stride 32, doubled with every halving of it.
      pool_window: (height, width) of the average in feature pixels, None for the whole map. DeepLab2 fixes it to the
        training crop, so that a larger image is averaged over the window that the network was trained with. A window
        beyond the map is clipped to it.
      dropout_rate: applied to the result in training.

    Source: Chen et al., Rethinking Atrous Convolution, 2017; DeepLab2's model/layers (fixed window, stride 1, VALID).
    """

    features: int
    rates: tuple[int, ...]
    pool_window: tuple[int, int] | None = None
    dropout_rate: float = 0.1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        branches = [ConvNorm(self.features, options=self.options, name='branch_0')(x, train=train)]
        for i, rate in enumerate(self.rates, 1):
            branch = ConvNorm(
                self.features, 3, dilation=rate, options=self.options, name=f'branch_{i}'
            )
            branches.append(branch(x, train=train))
        pooled = average_pool(x, self.pool_window)
        pooled = ConvNorm(self.features, options=self.options, name='pool')(pooled, train=train)
        branches.append(resize_bilinear(pooled, x.shape[1:3]))
        x = jnp.concatenate(branches, axis=-1)
        x = ConvNorm(self.features, options=self.options, name='project')(x, train=train)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


def average_pool(x: Array, window: tuple[int, int] | None) -> Array:
    """Averages over windows at stride 1 without padding.

    Args:
      x: float[B, H, W, C].
      window: (height, width) in pixels, clipped to the map; None averages the whole map.

    Returns:
      float[B, H - height + 1, W - width + 1, C] of the dtype of `x`, accumulated in float32.
    """
    size = x.shape[1:3]
    window = size if window is None else tuple(min(n, m) for n, m in zip(window, size, strict=True))
    if window == size:
        return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
    total = jax.lax.reduce_window(
        x.astype(jnp.float32), 0.0, jax.lax.add, (1, *window, 1), (1, 1, 1, 1), 'VALID'
    )
    return (total / (window[0] * window[1])).astype(x.dtype)
