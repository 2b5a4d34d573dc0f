"""ResNets v2, whose units normalise and activate their input."""

import dataclasses
from typing import Any

import flax.linen as nn

from pdl_jax.models.adaptive_computation import UnitCost
from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.blocks import (
    Conv,
    ConvNorm,
    LayerOptions,
    UnitFeatures,
    batch_norm,
    check_choices,
    drop_path,
)
from pdl_jax.typing import Array


class PreactivationResNet(ResNet):
    """A ResNet of pre-activation bottlenecks, without BatchNorm behind the stem.

    Only the max-pool follows `options.padding` ('same' in the original); convolutions are padded
    symmetrically. Features for decoders are sums before any activation; 'last' is normalised and
    activated.

    Attributes:
      stage_width_multiplier: scales the channels of the stages, but not those of the stem.

    Source: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016; strides, padding and
    biases as in the code of Figurnov et al., Spatially Adaptive Computation Time, 2017.
    """

    stride_convention: str = 'torchvision'
    stage_width_multiplier: float = 1.0

    def __post_init__(self) -> None:
        choices = {
            'block': ('bottleneck',),
            'stem': ('plain',),
            'stride_convention': ('torchvision', 'detectron2'),
            'endpoints': ('outputs',),
        }
        check_choices(self, choices)
        super().__post_init__()

    def _stem(self, x: Array, train: bool) -> Array:
        return Conv(self._width(64), 7, 2, has_bias=True, options=self._layer_options, name='stem')(
            x
        )

    def _activate(self, x: Array) -> Array:
        return x

    def _finish(self, x: Array, train: bool) -> Array:
        options = self._layer_options
        return options.activation(batch_norm(options, train=train)(x))

    def _stage_width(self, stage: int) -> int:
        return self._width(round(64 * 2**stage * self.stage_width_multiplier))

    @property
    def _layer_options(self) -> LayerOptions:
        return dataclasses.replace(super()._layer_options, padding='symmetric')

    def _make_bottleneck(
        self, width: int, stride: int, dilation: int, averaged_px: int, **shared: Any
    ) -> nn.Module:
        del averaged_px
        return PreactivationBottleneck(width, stride, dilation, **shared)


class PreactivationBottleneck(nn.Module):
    """A residual unit: BatchNorm, activation, 1x1, 3x3 with stride, 1x1 to four times the width."""

    width: int
    stride: int
    dilation: int
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()

    @property
    def cost(self) -> UnitCost:
        """The cost of a position."""
        wide = 4 * self.width**2
        return UnitCost(wide, 9 * self.width**2 + wide, self.dilation)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        """Maps float[B, h, w, C] to features with 4 * width channels."""
        options, features = self.options, 4 * self.width
        preact = options.activation(batch_norm(options, train=train, name='preact')(x))
        if x.shape[-1] == features:
            shortcut = x[:, :: self.stride, :: self.stride]
        else:
            shortcut = Conv(
                features, 1, self.stride, has_bias=True, options=options, name='shortcut'
            )(preact)
        x = ConvNorm(self.width, options=options, name='conv1')(preact, train=train)
        x = ConvNorm(self.width, 3, self.stride, self.dilation, options=options, name='conv2')(
            x, train=train
        )
        branch = Conv(features, has_bias=True, options=options, name='conv3')(x)
        total = shortcut + drop_path(self, branch, self.keep_prob, train=train)
        return UnitFeatures(total, total, branch)
