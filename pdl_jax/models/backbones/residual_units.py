"""The residual units of ResNets."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.adaptive_computation import UnitCost
from pdl_jax.models.backbones.inverted_residual import SqueezeExcite
from pdl_jax.models.blocks import (
    ConvNorm,
    LayerOptions,
    UnitFeatures,
    drop_path,
    project_branch,
)
from pdl_jax.typing import Array


class Bottleneck(nn.Module):
    """A residual unit: 1x1, 3x3 with stride and dilation, 1x1 to four times the width.

    Attributes:
      groups, width_per_group: see `ResNet`.
      is_first_strided: whether the first 1x1 strides and not the 3x3.
      averaged_px: distance of the 2x2 pixels that the shortcut averages before it strides; 0 for
        none. Where dilation replaces the stride, it averages all the same.
      squeeze_excite_gate: gate of a squeeze-and-excite behind the last convolution; None for none.
    """

    width: int
    stride: int
    dilation: int
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()
    groups: int = 1
    width_per_group: int = 64
    is_first_strided: bool = False
    averaged_px: int = 0
    squeeze_excite_gate: str | None = None

    @property
    def cost(self) -> UnitCost:
        """The cost of a position."""
        wide = 4 * self.width * self._inner_width
        return UnitCost(wide, 9 * self._inner_width**2 // self.groups + wide, self.dilation)

    @property
    def _inner_width(self) -> int:
        return self.groups * max(1, self.width * self.width_per_group // 64)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        source = _average_2x2(x, self.averaged_px) if self.averaged_px else x
        shortcut = make_shortcut(source, 4 * self.width, self.stride, self.options, train=train)
        inner = self._inner_width
        first, second = (self.stride, 1) if self.is_first_strided else (1, self.stride)
        x = ConvNorm(inner, 1, first, options=self.options, name='conv1')(x, train=train)
        x = ConvNorm(
            inner,
            3,
            second,
            self.dilation,
            options=self.options,
            groups=self.groups,
            name='conv2',
        )(x, train=train)
        branch = project_branch(x, 4 * self.width, self.options, train=train, name='conv3')
        if self.squeeze_excite_gate is not None:
            excite = SqueezeExcite(self.squeeze_excite_gate, self.options, name='squeeze_excite')
            branch = excite(branch)
        return add_branch(self, branch, shortcut, train=train)


class BasicBlock(nn.Module):
    """A residual unit: two 3x3 convolutions, each with its stride and dilation."""

    width: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()

    @property
    def cost(self) -> UnitCost:
        """The cost of a position."""
        return UnitCost(9 * self.width**2, 9 * self.width**2, self.dilations[1])

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        shortcut = make_shortcut(x, self.width, max(self.strides), self.options, train=train)
        x = ConvNorm(
            self.width, 3, self.strides[0], self.dilations[0], options=self.options, name='conv1'
        )(x, train=train)
        branch = ConvNorm(
            self.width,
            3,
            self.strides[1],
            self.dilations[1],
            activation=None,
            scale_init=nn.initializers.zeros,
            options=self.options,
            name='conv2',
        )(x, train=train)
        return add_branch(self, branch, shortcut, train=train)


def add_branch(unit: nn.Module, branch: Array, shortcut: Array, *, train: bool) -> UnitFeatures:
    """Ends a residual unit that has `keep_prob` and `options`."""
    total = drop_path(unit, branch, unit.keep_prob, train=train) + shortcut
    return UnitFeatures(unit.options.activation(total), total, branch)


def make_shortcut(
    x: Array, features: int, stride: int, options: LayerOptions, *, train: bool
) -> Array:
    """Subsamples `x` and, if its channels are not `features`, projects it.

    The projection is a child of the module being called.
    """
    x = x[:, ::stride, ::stride]
    if x.shape[-1] == features:
        return x
    return ConvNorm(features, activation=None, options=options, name='shortcut')(x, train=train)


def _average_2x2(x: Array, distance: int) -> Array:
    """Averages each pixel with those to its right, below and across, as far as there are any."""
    x = jnp.pad(x, ((0, 0), (0, distance), (0, distance), (0, 0)), mode='edge')
    x = x[:, :-distance] + x[:, distance:]
    return (x[:, :, :-distance] + x[:, :, distance:]) / 4
