"""ResNets, with the placements of strides that published weights were trained with."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn

from pdl_jax.models.adaptive_computation import (
    KINDS,
    HaltingOptions,
    run_adaptive_stage,
)
from pdl_jax.models.backbones.inverted_residual import GATES
from pdl_jax.models.backbones.residual_units import BasicBlock, Bottleneck
from pdl_jax.models.blocks import (
    ACTIVATIONS,
    ConvNorm,
    LayerOptions,
    UnitFeatures,
    check_choices,
    find_keep_prob,
)
from pdl_jax.ops.padding import same_padding, symmetric_padding
from pdl_jax.ops.pooling import max_pool
from pdl_jax.typing import Array

_CHOICES = {
    'block': ('bottleneck', 'basic'),
    'stem': ('plain', 'beta', 'deep', 'none'),
    'shortcut': ('strided', 'averaged'),
    'stride_convention': ('deeplab2', 'torchvision', 'detectron2', 'msra', 'slim', 'caffe'),
    'endpoints': ('outputs', 'unactivated', 'inner'),
    'activation': tuple(ACTIVATIONS),
    'squeeze_excite_gate': (None, *GATES),
    'drop_path_schedule': ('linear', 'constant', 'stage'),
    'output_stride': (4, 8, 16, 32),
    'adaptive_computation': KINDS,
}
# Conventions in which a unit that lost its stride is dilated like the units after it.
_DILATES_FIRST = ('detectron2', 'msra', 'caffe')
# The field of `UnitFeatures` that each kind of endpoint reads.
_FIELDS = {'outputs': 'activated', 'unactivated': 'total', 'inner': 'branch'}


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
      'caffe': as 'detectron2', but bottlenecks stride in their first convolution, and the max-pool
        of an even number of pixels has one more, whose window reaches beyond the map. DeepLab v2.

    In all but 'detectron2', 'msra' and 'caffe' a unit that lost its stride keeps the dilation
    before it, so networks of different output strides agree where they overlap.

    Attributes:
      block_counts: units of the four stages.
      block: 'bottleneck', or 'basic' as in ResNet-18 and 34.
      stem: 'plain' (one 7x7), 'beta' (three 3x3, the Inception stem), 'deep' (the same of half the
        width, ResNet-D), or 'none': the input has stride 4 and goes into the residual stages (an
        encoder behind another network); not in 'deeplab2', where these begin at stride 2.
      stride_convention: convention for the placement of strides, see above.
      multi_grid: factors of the dilations of the last stage, one per unit; empty for none.
      endpoints: features at a stride for decoders. 'outputs': the last activated output with that
        stride, in 'slim' that of the last unit but one. 'unactivated': the same before its
        activation, as kMaX-DeepLab in DeepLab2 reads it; 'last' is activated all the same. 'inner':
        the residual branch of the last unit but one of the stage, normalised but neither added nor
        activated, as decoders of TF-slim read it.
      activation: 'relu' or 'gelu'.
      squeeze_excite_gate: gate of a squeeze-and-excite at the end of every bottleneck's residual
        branch (Model Garden); None for none.
      drop_path_keep_prob: share of images that keep a unit's residual branch in training, in the
        last stage.
      drop_path_schedule: the share in the other stages: 'linear' or 'constant', see
        `blocks.find_keep_prob`, or 'stage', which drops 2/5, 3/5 and 4/5 as many in all units of
        stages 2, 3 and 4 (Model Garden).
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.
      adaptive_computation: '' (every unit runs everywhere), 'act' or 'sact': units after the first
        of a stage run until the image or the position halts, see `adaptive_computation`.
      min_active_share: see `adaptive_computation.HaltingOptions`.
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
    squeeze_excite_gate: str | None = None
    drop_path_keep_prob: float = 1.0
    drop_path_schedule: str = 'linear'
    output_stride: int = 32
    width_multiplier: float = 1.0
    adaptive_computation: str = ''
    min_active_share: float = 0.0
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
        if self.stem == 'none' and self.stride_convention == 'deeplab2':
            raise ValueError(
                "ResNet stem='none' needs a stride_convention with a max-pool ('torchvision')"
            )
        plain = (1, 64, 'strided', None)
        found = (self.groups, self.width_per_group, self.shortcut, self.squeeze_excite_gate)
        if self.block == 'basic' and found != plain:
            raise ValueError(
                f'ResNet groups (={self.groups}), width_per_group (={self.width_per_group}), '
                f'shortcut (={self.shortcut!r}) and squeeze_excite_gate '
                f'(={self.squeeze_excite_gate!r}) are of bottlenecks; basic blocks have {plain}'
            )
        if self.endpoints == 'inner' and min(self.block_counts) < 2:
            raise ValueError(
                f"ResNet endpoints='inner' needs two units in every stage, not "
                f'block_counts={self.block_counts}'
            )
        if self.adaptive_computation:
            self._check_adaptive()
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
        stem, stride = x, 4
        if self.stem != 'none':
            stem, stride = self._stem(x, train), 2
            x = self._activate(stem)
            if self.stride_convention != 'deeplab2':
                x = stem = self._max_pool(x)
                stride = 4
        endpoints = {'stem': stem if self.endpoints == 'unactivated' else x}
        features = UnitFeatures(x, stem, stem)
        for stage, count in enumerate(self.block_counts):
            units = []
            for i in range(count):
                unit_stride = self._unit_stride(stage, i)
                units.append(self._make_unit(stage, i, stride, unit_stride))
                # The nominal stride grows even if the unit lost its stride.
                stride *= unit_stride
            outputs = self._run_stage(stage, units, features, train=train, refine=refine)
            features = outputs[-1]
            level = 4 * 2**stage
            if level > self.output_stride:
                continue
            # In 'slim' the last unit leaves this level, but its input is the same at every output
            # stride.
            is_left = self.stride_convention == 'slim' and stage < 3
            unit_features = outputs[-2 if is_left or self.endpoints == 'inner' else -1]
            endpoints[f'stride{level}'] = getattr(unit_features, _FIELDS[self.endpoints])
        return {**endpoints, 'last': self._finish(features.activated, train)}

    def _run_stage(
        self,
        stage: int,
        units: Sequence[nn.Module],
        features: UnitFeatures,
        *,
        train: bool,
        refine: Callable[[str, Array], Array] | None,
    ) -> list[UnitFeatures]:
        """Returns the features before the stage and after each unit; only the last, if it halts."""
        if self.adaptive_computation:
            halting = HaltingOptions(
                self.adaptive_computation, min_active_share=self.min_active_share
            )
            features = run_adaptive_stage(
                self,
                units,
                features,
                name=f'stage{stage + 2}',
                halting=halting,
                options=self._layer_options,
                train=train,
            )
            return [features]
        outputs = [features]
        for unit in units:
            features = cast(UnitFeatures, unit(features.activated, train=train))
            if refine is not None:
                total = refine(unit.name or '', features.total)
                features = UnitFeatures(self._activate(total), total, features.branch)
            outputs.append(features)
        return outputs

    def _check_adaptive(self) -> None:
        if self.stride_convention == 'slim' or self.endpoints == 'inner':
            raise ValueError(
                f'ResNet adaptive_computation={self.adaptive_computation!r} averages the outputs '
                f'of the units of a stage, of which only the first may stride: '
                f"stride_convention='slim' and endpoints='inner' read single units"
            )

    def _activate(self, x: Array) -> Array:
        """Activates the stem, or the sum of branch and shortcut."""
        return self._layer_options.activation(x)

    def _finish(self, x: Array, train: bool) -> Array:
        """Ends the network."""
        del train
        return x

    @property
    def last_units(self) -> dict[str, int]:
        """The nominal strides of the stages by the names of their last units, see `refine`."""
        counts = enumerate(self.block_counts)
        return {_name_unit(stage, count - 1): 4 * 2**stage for stage, count in counts}

    def _max_pool(self, x: Array) -> Array:
        pads = symmetric_padding(3, 1)
        if self.options.padding == 'same':
            pads = same_padding(x.shape[1:3], 3, 2, 1)
        if self.stride_convention == 'caffe':
            # Caffe rounds sizes up; the second pixel is not reached from an odd number of them.
            pads = ((1, 2), (1, 2))
        return max_pool(x, 3, 2, pads)

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
            averaged_px = max(1, stride // self.output_stride) if is_averaged else 0
            dilation = after if self.stride_convention in _DILATES_FIRST else before
            return self._make_bottleneck(width, step, dilation, averaged_px, **shared)
        strides = (1, step) if self.stride_convention == 'slim' else (step, 1)
        dilations = {
            'detectron2': (after, after),
            'msra': (after, after),
            'caffe': (after, after),
            'slim': (before, before),
        }.get(self.stride_convention, (before, after))
        return BasicBlock(width, strides, dilations, **shared)

    def _make_bottleneck(
        self, width: int, stride: int, dilation: int, averaged_px: int, **shared: Any
    ) -> nn.Module:
        return Bottleneck(
            width,
            stride,
            dilation,
            groups=self.groups,
            width_per_group=self.width_per_group,
            is_first_strided=self.stride_convention in ('msra', 'caffe'),
            averaged_px=averaged_px,
            squeeze_excite_gate=self.squeeze_excite_gate,
            **shared,
        )

    def _share_attributes(self, stage: int, i: int, stride: int) -> dict[str, Any]:
        return {
            'keep_prob': self._find_keep_prob(stage, stride),
            'options': self._layer_options,
            'name': _name_unit(stage, i),
        }

    def _find_keep_prob(self, stage: int, stride: int) -> float:
        if self.drop_path_schedule == 'stage':
            return 1 - (1 - self.drop_path_keep_prob) * (stage + 2) / 5
        return find_keep_prob(self.drop_path_keep_prob, stride, self.drop_path_schedule)

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


def _name_unit(stage: int, i: int) -> str:
    return f'stage{stage + 2}_block{i + 1}'
