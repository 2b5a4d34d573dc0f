"""ResNets, with the placements of strides that published weights were trained with."""

import dataclasses

import flax.linen as nn

from pdl_jax.models.blocks import ConvNorm, LayerOptions, check_choices
from pdl_jax.ops.padding import same_padding, symmetric_padding
from pdl_jax.ops.pooling import max_pool
from pdl_jax.typing import Array

_CHOICES = {
    'block': ('bottleneck', 'basic'),
    'stem': ('plain', 'beta'),
    'stride_convention': ('deeplab2', 'torchvision', 'detectron2', 'slim'),
    'endpoints': ('outputs', 'inner'),
    'output_stride': (4, 8, 16, 32),
}


class ResNet(nn.Module):
    """A ResNet that is dilated instead of strided beyond `output_stride`.

    The conventions differ in the placement of strides; weights need the one they were trained in:

      'deeplab2': no max-pool; the first unit of each of the four stages strides.
      'torchvision': a max-pool, then the first unit of stages 2 to 4.
      'detectron2': as 'torchvision', but a unit that lost its stride is dilated like the units
        after it.
      'slim': a max-pool, then the last unit of stages 1 to 3. Only the max-pool follows
        `options.padding`; convolutions are padded symmetrically, as in TF-slim.

    In all but 'detectron2' a unit that lost its stride keeps the dilation before it, so networks of
    different output strides agree where they overlap.

    Attributes:
      block_counts: units of the four stages.
      block: 'bottleneck', or 'basic' as in ResNet-18 and 34.
      stem: 'plain' (one 7x7) or 'beta' (three 3x3, the Inception stem).
      stride_convention: convention for the placement of strides, see above.
      multi_grid: factors of the dilations of the last stage, one per unit; empty for none.
      endpoints: features at a stride for decoders. 'outputs': the last activated output with that
        stride, in 'slim' that of the last unit but one. 'inner': the residual branch of the last
        unit but one of the stage, normalised but neither added nor activated, as decoders of
        TF-slim read it.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.

    Source: He et al., CVPR 2016; zero-initialised last BatchNorms from DeepLab2; multi-grid from
    Chen et al., arXiv 1706.05587.
    """

    block_counts: tuple[int, int, int, int]
    block: str = 'bottleneck'
    stem: str = 'plain'
    stride_convention: str = 'deeplab2'
    multi_grid: tuple[int, ...] = ()
    endpoints: str = 'outputs'
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        if len(self.multi_grid) not in (0, self.block_counts[-1]):
            raise ValueError(
                f'ResNet multi_grid {self.multi_grid} must be empty or have one factor for each of '
                f'the {self.block_counts[-1]} units of the last stage'
            )
        if self.endpoints == 'inner' and min(self.block_counts) < 2:
            raise ValueError(
                f"ResNet endpoints='inner' needs two units in every stage, not "
                f'block_counts={self.block_counts}'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        x = nn.relu(self._stem(x, train))
        stride = 2
        if self.stride_convention != 'deeplab2':
            x = _max_pool(x, self.options.padding)
            stride = 4
        endpoints = {}
        for stage, count in enumerate(self.block_counts):
            inputs, branches = [], []
            for i in range(count):
                unit_stride = self._unit_stride(stage, i)
                inputs.append(x)
                x, branch = self._make_unit(stage, i, stride, unit_stride)(x, train=train)
                branches.append(branch)
                # The nominal stride grows even if the unit lost its stride.
                stride *= unit_stride
            level = 4 * 2**stage
            if level > self.output_stride:
                continue
            if self.endpoints == 'inner':
                endpoints[f'stride{level}'] = branches[-2]
            else:
                # In 'slim' the last unit leaves this level, but its input is the same at every
                # output stride.
                is_left = self.stride_convention == 'slim' and stage < 3
                endpoints[f'stride{level}'] = inputs[-1] if is_left else x
        return {**endpoints, 'last': x}

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
        width = self._width(64 * 2**stage)
        name = f'stage{stage + 2}_block{i + 1}'
        if self.block == 'bottleneck':
            dilation = after if self.stride_convention == 'detectron2' else before
            return Bottleneck(width, step, dilation, self._conv_options, name=name)
        strides = (1, step) if self.stride_convention == 'slim' else (step, 1)
        dilations = {'detectron2': (after, after), 'slim': (before, before)}.get(
            self.stride_convention, (before, after)
        )
        return BasicBlock(width, strides, dilations, self._conv_options, name=name)

    @property
    def _conv_options(self) -> LayerOptions:
        if self.stride_convention == 'slim':
            return dataclasses.replace(self.options, padding='symmetric')
        return self.options

    def _width(self, channels: int) -> int:
        return max(8, int(channels * self.width_multiplier + 4) // 8 * 8)

    def _stem(self, x: Array, train: bool) -> Array:
        options = self._conv_options
        if self.stem == 'plain':
            return ConvNorm(self._width(64), 7, 2, activation=None, options=options, name='stem')(
                x, train=train
            )
        for i, (width, stride, activation) in enumerate(
            [(64, 2, nn.relu), (64, 1, nn.relu), (128, 1, None)], 1
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

    Returns the activated sum with the shortcut, and the residual branch alone.
    """

    width: int
    stride: int
    dilation: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        shortcut = make_shortcut(x, 4 * self.width, self.stride, self.options, train=train)
        x = ConvNorm(self.width, options=self.options, name='conv1')(x, train=train)
        x = ConvNorm(self.width, 3, self.stride, self.dilation, options=self.options, name='conv2')(
            x, train=train
        )
        branch = ConvNorm(
            4 * self.width,
            activation=None,
            scale_init=nn.initializers.zeros,
            options=self.options,
            name='conv3',
        )(x, train=train)
        return nn.relu(branch + shortcut), branch


class BasicBlock(nn.Module):
    """A residual unit: two 3x3 convolutions, each with its stride and dilation.

    Returns the activated sum with the shortcut, and the residual branch alone.
    """

    width: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
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
        return nn.relu(branch + shortcut), branch


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


def _max_pool(x: Array, padding: str) -> Array:
    if padding == 'same':
        pads = same_padding(x.shape[1:3], 3, 2, 1)
    else:
        pads = symmetric_padding(3, 1)
    return max_pool(x, 3, 2, pads)
