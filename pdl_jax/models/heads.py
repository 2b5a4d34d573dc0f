"""Prediction heads."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import LayerOptions, SeparableConv
from pdl_jax.ops.convolution import conv
from pdl_jax.typing import Array


class Head(nn.Module):
    """A 5x5 separable convolution, then a 1x1 convolution with bias to the outputs, in float32.

    float32 because bf16 steps by 8 pixels at offsets of 2000, and because softmax and losses need it.
    """

    features: int
    outputs: int
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = SeparableConv(self.features, options=self.options, name='fuse')(x, train=train)
        kernel = self.param(
            'kernel',
            nn.initializers.truncated_normal(0.01),
            (1, 1, x.shape[-1], self.outputs),
            jnp.float32,
        )
        bias = self.param('bias', nn.initializers.zeros, (self.outputs,), jnp.float32)
        return conv(x.astype(jnp.float32), kernel, 1, 1, ((0, 0), (0, 0))) + bias
