"""MobileNetV2 as a segmentation backbone."""

import flax.linen as nn

from pdl_jax.models.blocks import ConvNorm, LayerOptions
from pdl_jax.typing import Array

# (expansion, channels, repeats, stride of the first) of the seven groups.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier; 'last' has 320 channels at width 1.

    Where the running stride has reached `output_stride`, strides become 1 and the blocks *after* the replaced stride are dilated.

    Attributes:
      output_stride: 8, 16 or 32.
      width_multiplier: scales all channels, rounded to multiples of 8.

    Source: Sandler et al., CVPR 2018; atrous rule of TF-slim.
    """

    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        x = ConvNorm(
            make_divisible(32 * self.width_multiplier),
            3,
            2,
            activation=nn.relu6,
            options=self.options,
            name='stem',
        )(x, train=train)
        endpoints = {}
        nominal_stride, dilation, index = 2, 1, 0
        for expansion, channels, repeats, first_stride in _GROUPS:
            for i in range(repeats):
                ends_stride = i == 0 and first_stride == 2
                is_strided = ends_stride and nominal_stride < self.output_stride
                x = InvertedResidual(
                    make_divisible(channels * self.width_multiplier),
                    expansion,
                    2 if is_strided else 1,
                    dilation,
                    self.options,
                    name=f'block_{index}',
                )(x, train=train)
                if ends_stride:
                    nominal_stride *= 2
                    dilation = max(1, nominal_stride // self.output_stride)
                index += 1
            if nominal_stride <= self.output_stride:
                endpoints[f'stride{nominal_stride}'] = x
        return {**endpoints, 'last': x}


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; plus the input where shapes agree."""

    features: int
    expansion: int
    stride: int
    dilation: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        y = x
        if self.expansion > 1:
            y = ConvNorm(
                x.shape[-1] * self.expansion,
                activation=nn.relu6,
                options=self.options,
                name='expand',
            )(y, train=train)
        y = ConvNorm(
            y.shape[-1],
            3,
            self.stride,
            self.dilation,
            nn.relu6,
            is_depthwise=True,
            options=self.options,
            name='depthwise',
        )(y, train=train)
        y = ConvNorm(self.features, activation=None, options=self.options, name='project')(
            y, train=train
        )
        # Nominally strided blocks change the channels too, so the shape test never joins them.
        return x + y if x.shape == y.shape else y


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Rounds channels to a multiple of `divisor`, never below 90 % of them. Source: TF-slim."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
