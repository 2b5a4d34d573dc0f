"""The ResNets for the 32x32 images of CIFAR-10: three stages of basic pre-activation units."""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.adaptive_computation import (
    KINDS,
    HaltingOptions,
    UnitCost,
    run_adaptive_stage,
)
from pdl_jax.models.blocks import (
    Conv,
    ConvNorm,
    LayerOptions,
    UnitFeatures,
    batch_norm,
    check_choices,
)
from pdl_jax.typing import Array

leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.1)
# The original applies it twice behind the first convolution of a unit.
_leaky_relu_twice = functools.partial(nn.leaky_relu, negative_slope=0.01)


class CifarResNet(nn.Module):
    """A ResNet of 6 n + 2 layers without parameters in its shortcuts.

    Attributes:
      units_per_stage: n.
      output_stride: 4, that of the last stage.
      width_multiplier: scales the channels of every layer, 16, 32 and 64.
      adaptive_computation, min_active_share: see `backbones.resnet.ResNet`.
      options: options of all layers; the padding is 'same', the activation a leaky ReLU.

    Source: He et al., ECCV 2016; leaky ReLUs and pooled shortcuts as in the code of Figurnov et
    al., Spatially Adaptive Computation Time, 2017.
    """

    units_per_stage: int
    output_stride: int = 4
    width_multiplier: float = 1.0
    adaptive_computation: str = ''
    min_active_share: float = 0.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, {'output_stride': (4,), 'adaptive_computation': KINDS})
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps f32[B, H, W, 3] to {'stride1', 'stride2', 'stride4', 'last'}; none is activated."""
        options = dataclasses.replace(self.options, padding='same', activation=leaky_relu)
        widths = [max(8, round(width * self.width_multiplier) // 8 * 8) for width in (16, 32, 64)]
        x = Conv(widths[0], 3, has_bias=True, options=options, name='stem')(x)
        features, endpoints = UnitFeatures(x, x, x), {}
        for stage, width in enumerate(widths, 1):
            units = [
                BasicPreactivationUnit(
                    width,
                    stride=2 if stage > 1 and i == 1 else 1,
                    is_first=stage == i == 1,
                    options=options,
                    name=f'stage{stage}_block{i}',
                )
                for i in range(1, self.units_per_stage + 1)
            ]
            if self.adaptive_computation:
                features = run_adaptive_stage(
                    self,
                    units,
                    features,
                    name=f'stage{stage}',
                    halting=HaltingOptions(
                        self.adaptive_computation, leaky_relu, self.min_active_share
                    ),
                    options=options,
                    train=train,
                )
            else:
                for unit in units:
                    features = unit(features.activated, train=train)
            endpoints[f'stride{2 ** (stage - 1)}'] = features.activated
        return {**endpoints, 'last': features.activated}


class BasicPreactivationUnit(nn.Module):
    """A residual unit: BatchNorm, activation, and two 3x3 convolutions.

    Attributes:
      width: channels.
      stride: that of the first convolution; the shortcut is pooled and padded with channels of 0.
      is_first: whether the shortcut begins behind the activation.
      options: options of all layers.
    """

    width: int
    stride: int = 1
    is_first: bool = False
    options: LayerOptions = LayerOptions()

    @property
    def cost(self) -> UnitCost:
        """The cost of a position."""
        return UnitCost(9 * self.width**2, 9 * self.width**2)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        """Maps float[B, h, w, C] to features of `width` channels."""
        options = self.options
        preact = options.activation(batch_norm(options, train=train, name='preact')(x))
        shortcut = preact if self.is_first else x
        if self.stride > 1:
            window = (self.stride, self.stride)
            shortcut = nn.avg_pool(shortcut, window, window, 'SAME', count_include_pad=False)
        missing = self.width - x.shape[-1]
        before, after = missing // 2, missing - missing // 2
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (before, after)))
        x = ConvNorm(
            self.width,
            3,
            self.stride,
            activation=_leaky_relu_twice,
            options=options,
            name='conv1',
        )(preact, train=train)
        branch = Conv(self.width, 3, has_bias=True, options=options, name='conv2')(x)
        total = shortcut + branch
        return UnitFeatures(total, total, branch)
