"""The residual block of MobileNets, and the rounding of their channels."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import Activation, Conv, ConvNorm, LayerOptions
from pdl_jax.typing import Array

GATES: dict[str, Activation] = {
    'hard_sigmoid': nn.hard_sigmoid,
    # Model Garden's factor: with 1/6 its published networks give other logits.
    'rounded_hard_sigmoid': lambda x: nn.relu6(x + 3) * 0.16667,
    'sigmoid': nn.sigmoid,
}


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excite, linear projection; plus the input.

    Attributes:
      features: channels of the output.
      expanded_features: channels of the depthwise convolution; an input with as many channels is
        not expanded.
      has_shortcut: whether to add the input. The network decides, because a block whose stride was
        replaced by dilation has no shortcut even if its shapes agree.
      squeeze_excite_gate: a key of `GATES`; None for no squeeze-and-excite.
    """

    features: int
    expanded_features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    has_shortcut: bool = False
    activation: Activation = nn.relu6
    squeeze_excite_gate: str | None = None
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Returns the output and the activated depthwise convolution, from float[B, H, W, C]."""
        y = x
        if self.expanded_features != x.shape[-1]:
            y = ConvNorm(
                self.expanded_features,
                activation=self.activation,
                options=self.options,
                name='expand',
            )(y, train=train)
        inner = ConvNorm(
            self.expanded_features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.activation,
            is_depthwise=True,
            options=self.options,
            name='depthwise',
        )(y, train=train)
        y = inner
        if self.squeeze_excite_gate is not None:
            y = SqueezeExcite(self.squeeze_excite_gate, self.options, name='squeeze_excite')(y)
        y = ConvNorm(self.features, activation=None, options=self.options, name='project')(
            y, train=train
        )
        return x + y if self.has_shortcut else y, inner


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the means of all channels.

    Source: Hu et al., CVPR 2018; reduction to a quarter and gates of Howard et al., ICCV 2019.
    """

    gate: str
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        y = jnp.mean(x, axis=(1, 2), keepdims=True)
        y = Conv(make_divisible(channels / 4), has_bias=True, options=self.options, name='reduce')(
            y
        )
        y = Conv(channels, has_bias=True, options=self.options, name='expand')(nn.relu(y))
        return x * GATES[self.gate](y)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Rounds channels to a multiple of `divisor`, never below 90 % of them. Source: TF-slim."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
