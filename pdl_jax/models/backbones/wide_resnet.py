"""Wide-ResNet-41 and its scaled variants SWideRNet, with switchable convolutions or attention."""

import flax.linen as nn

from pdl_jax.models.backbones.axial_resnet import AxialBottleneck
from pdl_jax.models.backbones.residual_units import make_shortcut
from pdl_jax.models.blocks import (
    Activation,
    Conv,
    ConvNorm,
    LayerOptions,
    batch_norm,
    check_choices,
    drop_path,
    find_keep_prob,
)
from pdl_jax.typing import Array

_CHOICES = {'drop_path_schedule': ('constant', 'linear'), 'output_stride': (4, 8, 16, 32)}


class WideResNet(nn.Module):
    """SWideRNet-(w1, w2, l) as DeepLab2 builds it; Wide-ResNet-41 is SWideRNet-(1, 1, 1).

    There is no max-pool. Units of stages 1 to 4 have two 3x3 convolutions, those of stage 5 are
    wide bottlenecks. Stages 2 to 5 stride in their first unit, or are dilated from its second 3x3
    on once `output_stride` is reached.

    Attributes:
      stem_width_multiplier: w1, scales the stem and stage 1.
      stage_width_multiplier: w2, scales stages 2 to 5.
      depth_multiplier: l, scales the 3, 6, 3, 3 units of stages 2 to 5, rounded down to at least 1.
      has_squeeze_excite: whether a gate rescales the channels of every unit's residual branch.
      sac_from_stride: smallest output stride (at output stride 32) of stages whose 3x3 convolutions
        are switchable; 0 for none. Published networks have 32.
      axial_from_stride: smallest stride (at output stride 32) of the input of units that attend
        along the axes instead of convolving (Axial-SWideRNet: 16); 0 for none. Such networks have
        an `output_stride` of 16 or 32.
      drop_path_keep_prob: share of images that keep a unit's residual branch in training, for units
        with at least stride 4 at their input.
      drop_path_schedule: 'constant', or 'linear' from 1 at stride 2 down to `drop_path_keep_prob`
        at stride 32.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer, on top of w1 and w2.

    Source: Chen et al., arXiv 2005.10266 (Wide-ResNet-41) and arXiv 2011.11675 (SWideRNet).
    """

    stem_width_multiplier: float = 1.0
    stage_width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    has_squeeze_excite: bool = False
    sac_from_stride: int = 0
    drop_path_keep_prob: float = 1.0
    drop_path_schedule: str = 'linear'
    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()
    axial_from_stride: int = 0

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        if self.axial_from_stride:
            check_choices(self, {'output_stride': (16, 32)})
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        stem = ConvNorm(
            _scale(64, self.width_multiplier * self.stem_width_multiplier),
            3,
            2,
            options=self.options,
            name='stem',
        )
        x = stem(x, train=train)
        endpoints = {}
        stride = 2
        for stage, count in enumerate((3, 3, 6, 3, 3), 1):
            # Stage 1 belongs to the stem: the multipliers of the other stages do not apply to it.
            count = count if stage == 1 else max(1, int(count * self.depth_multiplier))
            stage_stride = 2**stage
            for i in range(count):
                x = self._run_unit(x, stage, stride, f'stage{stage}_block{i + 1}', train)
                # The nominal stride grows after the first unit, even if that lost its stride.
                stride = stage_stride
            if 4 <= stage_stride <= self.output_stride:
                endpoints[f'stride{stage_stride}'] = x
        return {**endpoints, 'last': x}

    def _run_unit(self, x: Array, stage: int, stride: int, name: str, train: bool) -> Array:
        """Applies a unit; `stride` is that of its input at output stride 32."""
        stage_stride = 2**stage
        step = 2 if stride < min(stage_stride, self.output_stride) else 1
        widths = self._widths(stage)
        keep_prob = find_keep_prob(self.drop_path_keep_prob, stride, self.drop_path_schedule)
        if stride >= self.axial_from_stride > 0:
            unit = AxialBottleneck(
                widths[-1] // 4, step, keep_prob, self.options, key_expansion=2, name=name
            )
            return unit(x, train=train).activated
        rates = (max(1, stride // self.output_stride), max(1, stage_stride // self.output_stride))
        return WideUnit(
            widths,
            step,
            rates,
            has_squeeze_excite=self.has_squeeze_excite,
            has_sac=stage_stride >= self.sac_from_stride > 0,
            keep_prob=keep_prob,
            options=self.options,
            name=name,
        )(x, train=train)

    def _widths(self, stage: int) -> tuple[int, ...]:
        multiplier = self.stem_width_multiplier if stage == 1 else self.stage_width_multiplier
        width = _scale(16 * 2**stage, self.width_multiplier * multiplier)
        return (width, 2 * width, 4 * width) if stage == 5 else (4 * width, 4 * width)


class WideUnit(nn.Module):
    """A residual unit: two 3x3 convolutions for two `widths`; 1x1, 3x3 and 1x1 for three.

    Attributes:
      widths: channels after each convolution.
      stride: stride of the first 3x3.
      dilations: dilations before and after the nominal stride of this unit, for its first and its
        second 3x3.
      has_sac: whether the 3x3 convolutions are switchable.
      keep_prob: share of images that keep the residual branch in training.
    """

    widths: tuple[int, ...]
    stride: int
    dilations: tuple[int, int]
    has_squeeze_excite: bool
    has_sac: bool
    keep_prob: float
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        spatial = SwitchableConvNorm if self.has_sac else ConvNorm
        linear = {'activation': None, 'scale_init': nn.initializers.zeros, 'options': self.options}
        first = {
            'kernel_size': 3,
            'stride': self.stride,
            'dilation': self.dilations[0],
            'options': self.options,
        }
        shortcut = make_shortcut(x, self.widths[-1], self.stride, self.options, train=train)
        if len(self.widths) == 2:
            x = spatial(self.widths[0], **first, name='conv1')(x, train=train)
            x = spatial(self.widths[1], 3, dilation=self.dilations[1], **linear, name='conv2')(
                x, train=train
            )
        else:
            x = ConvNorm(self.widths[0], options=self.options, name='conv1')(x, train=train)
            x = spatial(self.widths[1], **first, name='conv2')(x, train=train)
            x = ConvNorm(self.widths[2], **linear, name='conv3')(x, train=train)
        if self.has_squeeze_excite:
            x = x * self._gate(x)
        x = drop_path(self, x, self.keep_prob, train=train)
        return nn.relu(x + shortcut)

    def _gate(self, x: Array) -> Array:
        """Computes the hard sigmoid of one layer on the mean, squeeze-and-excite in one layer."""
        mean = x.mean((1, 2), keepdims=True)
        init = nn.initializers.lecun_normal()
        gate = Conv(
            x.shape[-1],
            has_bias=True,
            kernel_init=init,
            options=self.options,
            name='squeeze_excite',
        )(mean)
        return nn.hard_sigmoid(gate)


class SwitchableConvNorm(nn.Module):
    """A convolution that blends two dilations of one kernel per pixel; then BatchNorm, activation.

    Its switch and contexts are initialised to zero, which makes it a `ConvNorm`. A strided one has
    no switch, only the global contexts.

    Source: Qiao et al., DetectoRS, CVPR 2021; without locked kernels, as in DeepLab2.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Activation | None = nn.relu
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = self._add_context(x, 'context_before')
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            options=self.options,
            name='conv',
        )
        y = conv(x)
        if self.stride == 1:
            # As in TensorFlow, the average does not count padding.
            mean = nn.avg_pool(x, (5, 5), padding='SAME', count_include_pad=False)
            switch = Conv(
                1,
                has_bias=True,
                kernel_init=nn.initializers.zeros,
                options=self.options,
                name='switch',
            )(mean)
            y = switch * conv(x, dilation=3 * self.dilation) + (1 - switch) * y
        y = self._add_context(y, 'context_after')
        y = batch_norm(self.options, train=train, scale_init=self.scale_init)(y)
        return y if self.activation is None else self.activation(y)

    def _add_context(self, x: Array, name: str) -> Array:
        mean = x.mean((1, 2), keepdims=True)
        init = nn.initializers.zeros
        return x + Conv(
            x.shape[-1], has_bias=True, kernel_init=init, options=self.options, name=name
        )(mean)


def _scale(channels: int, multiplier: float) -> int:
    return max(1, round(channels * multiplier))
