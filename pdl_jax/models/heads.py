"""Prediction heads."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import Conv, LayerOptions, make_fusion
from pdl_jax.typing import Array


class Head(nn.Module):
    """A few convolutions, then a 1x1 convolution with bias to the outputs, in float32.

    The output is float32 because bf16 steps by 8 pixels at offsets of 2000, and because softmax and
    losses need it.

    Attributes:
      kind: convolutions before the last, see `blocks.make_fusion`; 'none' for none.
      features: channels of those convolutions.
      outputs: channels of the result.
      has_bias: whether separable convolutions before the last have a bias too.
    """

    kind: str
    features: int
    outputs: int
    options: LayerOptions = LayerOptions()
    has_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.kind != 'none':
            # detectron2 reduces the channels in the last of its two convolutions.
            fusion = make_fusion(
                self.kind,
                self.features,
                x.shape[-1],
                self.options,
                name='fuse',
                has_bias=self.has_bias,
            )
            x = fusion(x, train=train)
        return predict(x, self.outputs, self.options, name='predict')


def predict(x: Array, outputs: int, options: LayerOptions, *, name: str) -> Array:
    """Applies a 1x1 convolution with bias in float32, as a child of the module being called."""
    options = dataclasses.replace(options, dtype=jnp.float32)
    init = nn.initializers.truncated_normal(0.01)
    return Conv(outputs, has_bias=True, kernel_init=init, options=options, name=name)(x)
