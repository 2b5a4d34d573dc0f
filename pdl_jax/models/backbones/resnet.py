"""ResNets, with the placements of strides that published weights were trained with."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import (
    ACTIVATIONS,
    ConvNorm,
    LayerOptions,
    check_choices,
    drop_path,
    find_keep_prob,
    project_branch,
)
from pdl_jax.ops.padding import same_padding, symmetric_padding
from pdl_jax.ops.pooling import max_pool
from pdl_jax.typing import Array

_CHOICES = {
    'block': ('bottleneck', 'basic'),
    'stem': ('plain', 'beta', 'deep'),
    'shortcut': ('strided', 'averaged'),
    'stride_convention': ('deeplab2', 'torchvision', 'detectron2', 'msra', 'slim'),
    'endpoints': ('outputs', 'unactivated', 'inner'),
    'activation': tuple(ACTIVATIONS),
    'output_stride': (4, 8, 16, 32),
}
# Conventions in which a unit that lost its stride is dilated like the units after it.
_DILATES_FIRST = ('detectron2', 'msra')
# The field of `UnitFeatures` that each kind of endpoint reads.
_FIELDS = {'outputs': 'activated', 'unactivated': 'total', 'inner': 'branch'}


class UnitFeatures(NamedTuple):
    """The features that a residual unit has at its end.

    Attributes:
      activated: float[B, h, w, C], the input of the next unit.
      total: float[B, h, w, C], the sum of branch and shortcut before its activation.
      branch: float[B, h, w, C], the residual branch alone.
    """

    activated: Array
    total: Array
    branch: Array


class ResNet(nn.Module):
    """A ResNet that is dilated instead of strided beyond `output_stride`.

    The conventions differ in the placement of strides; weights need the one they were trained in:

      'deeplab2': no max-pool; the first unit of each of the four stages strides.
      'torchvision': a max-pool, then the first unit of stages 2 to 4.
      'detectron2': as 'torchvision', but a unit that lost its stride is dilated like the units
        after it.
      'msra': as 'detectron2', but bottlenecks stride in their first convolution.
      'slim': a max-pool, then the last unit of stages 1 to 3. Only the max-pool follows
        `options.padding`; convolutions are padded symmetrically, as in TF-slim.

    In all but 'detectron2' and 'msra' a unit that lost its stride keeps the dilation before it, so
    networks of different output strides agree where they overlap.

    Attributes:
      block_counts: units of the four stages.
      block: 'bottleneck', or 'basic' as in ResNet-18 and 34.
      stem: 'plain' (one 7x7), 'beta' (three 3x3, the Inception stem) or 'deep' (the same of half
        the width, ResNet-D).
      stride_convention: convention for the placement of strides, see above.
      multi_grid: factors of the dilations of the last stage, one per unit; empty for none.
      endpoints: features at a stride for decoders. 'outputs': the last activated output with that
        stride, in 'slim' that of the last unit but one. 'unactivated': the same before its
        activation, as kMaX-DeepLab in DeepLab2 reads it; 'last' is activated all the same. 'inner':
        the residual branch of the last unit but one of the stage, normalised but neither added nor
        activated, as decoders of TF-slim read it.
      activation: 'relu' or 'gelu'.
      drop_path_keep_prob: share of images that keep a unit's residual branch in training, in the
        last stage; falls linearly to it, see `blocks.find_keep_prob`.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.
      groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt).
      width_per_group: channels of a group in the first stage; 64 in one group are ResNet's.
      shortcut: the projection of a strided bottleneck's input: of every second pixel ('strided'),
        or of averages of 2x2 ('averaged', ResNet-D).

    Source: He et al., CVPR 2016; zero-initialised last BatchNorms from DeepLab2; multi-grid from
    Chen et al., arXiv 1706.05587; groups from Xie et al., CVPR 2017 (ResNeXt); wide bottlenecks
    from Zagoruyko and Komodakis, BMVC 2016; ResNet-D from He et al., CVPR 2019, as timm has it.
    """

    block_counts: tuple[int, int, int, int]
    block: str = 'bottleneck'
    stem: str = 'plain'
    stride_convention: str = 'deeplab2'
    multi_grid: tuple[int, ...] = ()
    endpoints: str = 'outputs'
    activation: str = 'relu'
    drop_path_keep_prob: float = 1.0
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()
    groups: int = 1
    width_per_group: int = 64
    shortcut: str = 'strided'

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        if len(self.multi_grid) not in (0, self.block_counts[-1]):
            raise ValueError(
                f'ResNet multi_grid {self.multi_grid} must be empty or have one factor for each of '
                f'the {self.block_counts[-1]} units of the last stage'
            )
        plain = (1, 64, 'strided')
        if self.block == 'basic' and (self.groups, self.width_per_group, self.shortcut) != plain:
            raise ValueError(
                f'ResNet groups (={self.groups}), width_per_group (={self.width_per_group}) and '
                f'shortcut (={self.shortcut!r}) are those of bottlenecks: a basic block has {plain}'
            )
        if self.endpoints == 'inner' and min(self.block_counts) < 2:
            raise ValueError(
                f"ResNet endpoints='inner' needs two units in every stage, not "
                f'block_counts={self.block_counts}'
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, refine: Callable[[str, Array], Array] | None = None
    ) -> dict[str, Array]:
        """Computes features.

        Args:
          x: float[B, H, W, 3].
          train: see `blocks.batch_norm`.
          refine: maps the name of a unit and its features before their activation to those that
            take their place.

        Returns:
          {'stem', 'stride4', 'stride8', ..., 'last'}. The stem's features have stride 2 in
          'deeplab2', and stride 4, behind the max-pool, in the other conventions, which activate
          them before it.
        """
        stem = self._stem(x, train)
        x = self._layer_options.activation(stem)
        stride = 2
        if self.stride_convention != 'deeplab2':
            x = stem = _max_pool(x, self.options.padding)
            stride = 4
        endpoints = {'stem': stem if self.endpoints == 'unactivated' else x}
        features = UnitFeatures(x, stem, stem)
        for stage, count in enumerate(self.block_counts):
            outputs = [features]
            for i in range(count):
                unit_stride = self._unit_stride(stage, i)
                unit = self._make_unit(stage, i, stride, unit_stride)
                features = unit(features.activated, train=train)
                if refine is not None:
                    total = refine(unit.name or '', features.total)
                    features = UnitFeatures(
                        self._layer_options.activation(total), total, features.branch
                    )
                outputs.append(features)
                # The nominal stride grows even if the unit lost its stride.
                stride *= unit_stride
            level = 4 * 2**stage
            if level > self.output_stride:
                continue
            # In 'slim' the last unit leaves this level, but its input is the same at every output
            # stride.
            is_left = self.stride_convention == 'slim' and stage < 3
            unit_features = outputs[-2 if is_left or self.endpoints == 'inner' else -1]
            endpoints[f'stride{level}'] = getattr(unit_features, _FIELDS[self.endpoints])
        return {**endpoints, 'last': features.activated}

    def _unit_stride(self, stage: int, i: int) -> int:
        """Returns the stride of a unit at output stride 32."""
        if self.stride_convention == 'slim':
            is_strided = stage < 3 and i == self.block_counts[stage] - 1
        else:
            is_strided = i == 0 and (stage > 0 or self.stride_convention == 'deeplab2')
        return 2 if is_strided else 1

    def _make_unit(self, stage: int, i: int, stride: int, unit_stride: int) -> nn.Module:
        is_last_stage = stage == len(self.block_counts) - 1
        factor = self.multi_grid[i] if self.multi_grid and is_last_stage else 1
        step = unit_stride if stride < self.output_stride else 1
        before = factor * max(1, stride // self.output_stride)
        after = factor * max(1, stride * unit_stride // self.output_stride)
        width = self._stage_width(stage)
        shared = self._share_attributes(stage, i, stride)
        if self.block == 'bottleneck':
            is_averaged = self.shortcut == 'averaged' and unit_stride > 1
            shared |= {
                'groups': self.groups,
                'width_per_group': self.width_per_group,
                'is_first_strided': self.stride_convention == 'msra',
                'averaged_px': max(1, stride // self.output_stride) if is_averaged else 0,
            }
            dilation = after if self.stride_convention in _DILATES_FIRST else before
            return Bottleneck(width, step, dilation, **shared)
        strides = (1, step) if self.stride_convention == 'slim' else (step, 1)
        dilations = {
            'detectron2': (after, after),
            'msra': (after, after),
            'slim': (before, before),
        }.get(self.stride_convention, (before, after))
        return BasicBlock(width, strides, dilations, **shared)

    def _share_attributes(self, stage: int, i: int, stride: int) -> dict[str, Any]:
        return {
            'keep_prob': find_keep_prob(self.drop_path_keep_prob, stride),
            'options': self._layer_options,
            'name': f'stage{stage + 2}_block{i + 1}',
        }

    @property
    def _layer_options(self) -> LayerOptions:
        options = dataclasses.replace(self.options, activation=ACTIVATIONS[self.activation])
        if self.stride_convention == 'slim':
            return dataclasses.replace(options, padding='symmetric')
        return options

    def _stage_width(self, stage: int) -> int:
        return self._width(64 * 2**stage)

    def _width(self, channels: int) -> int:
        return max(8, int(channels * self.width_multiplier + 4) // 8 * 8)

    def _stem(self, x: Array, train: bool) -> Array:
        options = self._layer_options
        if self.stem == 'plain':
            return ConvNorm(self._width(64), 7, 2, activation=None, options=options, name='stem')(
                x, train=train
            )
        last = 64 if self.stem == 'deep' else 128
        for i, (width, stride, activation) in enumerate(
            [
                (last // 2, 2, options.activation),
                (last // 2, 1, options.activation),
                (last, 1, None),
            ],
            1,
        ):
            layer = ConvNorm(
                self._width(width),
                3,
                stride,
                activation=activation,
                options=options,
                name=f'stem_{i}',
            )
            x = layer(x, train=train)
        return x


class Bottleneck(nn.Module):
    """A residual unit: 1x1, 3x3 with stride and dilation, 1x1 to four times the width.

    Attributes:
      groups, width_per_group: see `ResNet`.
      is_first_strided: whether the first 1x1 strides and not the 3x3.
      averaged_px: distance of the 2x2 pixels that the shortcut averages before it strides; 0 for
        none. Where dilation replaces the stride, it averages all the same.
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

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        source = _average_2x2(x, self.averaged_px) if self.averaged_px else x
        shortcut = make_shortcut(source, 4 * self.width, self.stride, self.options, train=train)
        inner = self.groups * max(1, self.width * self.width_per_group // 64)
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
        return add_branch(self, branch, shortcut, train=train)


class BasicBlock(nn.Module):
    """A residual unit: two 3x3 convolutions, each with its stride and dilation."""

    width: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()

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


def _max_pool(x: Array, padding: str) -> Array:
    if padding == 'same':
        pads = same_padding(x.shape[1:3], 3, 2, 1)
    else:
        pads = symmetric_padding(3, 1)
    return max_pool(x, 3, 2, pads)
