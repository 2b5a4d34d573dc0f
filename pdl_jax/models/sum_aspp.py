"""The decoder of DeepLab v1 and v2: parallel dilated convolutions whose logits are added."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import Conv, LayerOptions
from pdl_jax.ops.pooling import average_pool_padded
from pdl_jax.typing import Array


class SumASPP(nn.Module):
    """Adds the logits of one branch per dilation.

    A branch is a dilated convolution to the logits (DeepLab v2 on ResNet-101), or, with hidden
    features, VGG-16's fully connected layers as convolutions: a dilated one, one of 1x1 and the
    logits, with dropout between (DeepLab v1; v2's ASPP-S and ASPP-L).

    Attributes:
      num_classes: number of logits.
      rates: dilations of the branches.
      kernel_px: side of the dilated kernels in pixels.
      features: channels of the two hidden layers of a branch; 0 for none.
      dropout_rate: dropout behind each of them in training.
      is_pooled: average over 3x3 pixels first, as LargeFOV does.

    Source: Chen et al., ICLR 2015 and TPAMI 2018.
    """

    num_classes: int
    rates: tuple[int, ...]
    kernel_px: int = 3
    features: int = 0
    dropout_rate: float = 0.5
    is_pooled: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Maps {'last'} to f32[B, h, w, C]."""
        x = features['last']
        if self.is_pooled:
            x = average_pool_padded(x, 3)
        branches = [
            SumASPPBranch(
                self.num_classes,
                rate,
                self.kernel_px,
                self.features,
                self.dropout_rate,
                self.options,
                name=f'branch_{i}',
            )(x, train=train)
            for i, rate in enumerate(self.rates, 1)
        ]
        return sum(branches[1:], branches[0])


class SumASPPBranch(nn.Module):
    """One branch, see `SumASPP`."""

    num_classes: int
    rate: int
    kernel_px: int
    features: int
    dropout_rate: float
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        kernel_px, rate = self.kernel_px, self.rate
        if self.features:
            for name in ('fc6', 'fc7'):
                conv = Conv(
                    self.features,
                    kernel_px,
                    dilation=rate,
                    has_bias=True,
                    options=self.options,
                    name=name,
                )
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(
                    self.options.activation(conv(x))
                )
                kernel_px, rate = 1, 1
        return Conv(
            self.num_classes,
            kernel_px,
            dilation=rate,
            has_bias=True,
            kernel_init=nn.initializers.normal(0.01),
            options=dataclasses.replace(self.options, dtype=jnp.float32),
            name='predict',
        )(x)
