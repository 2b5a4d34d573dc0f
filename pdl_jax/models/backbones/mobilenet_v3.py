"""MobileNetV3 as a segmentation backbone: large and small, each also reduced and minimalistic."""

from typing import NamedTuple

import flax.linen as nn

from pdl_jax.models.backbones.inverted_residual import GATES, InvertedResidual, make_divisible
from pdl_jax.models.blocks import Activation, ConvNorm, LayerOptions, check_choices
from pdl_jax.typing import Array


class _Row(NamedTuple):
    """One block at width 1."""

    kernel_size: int
    expanded: int
    channels: int
    has_squeeze_excite: bool
    activation: Activation
    stride: int


_STEM_CHANNELS = 16
_ROWS = {
    'large': (
        _Row(3, 16, 16, False, nn.relu, 1),
        _Row(3, 64, 24, False, nn.relu, 2),
        _Row(3, 72, 24, False, nn.relu, 1),
        _Row(5, 72, 40, True, nn.relu, 2),
        _Row(5, 120, 40, True, nn.relu, 1),
        _Row(5, 120, 40, True, nn.relu, 1),
        _Row(3, 240, 80, False, nn.hard_swish, 2),
        _Row(3, 200, 80, False, nn.hard_swish, 1),
        _Row(3, 184, 80, False, nn.hard_swish, 1),
        _Row(3, 184, 80, False, nn.hard_swish, 1),
        _Row(3, 480, 112, True, nn.hard_swish, 1),
        _Row(3, 672, 112, True, nn.hard_swish, 1),
        _Row(5, 672, 160, True, nn.hard_swish, 2),
        _Row(5, 960, 160, True, nn.hard_swish, 1),
        _Row(5, 960, 160, True, nn.hard_swish, 1),
    ),
    'small': (
        _Row(3, 16, 16, True, nn.relu, 2),
        _Row(3, 72, 24, False, nn.relu, 2),
        _Row(3, 88, 24, False, nn.relu, 1),
        _Row(5, 96, 40, True, nn.hard_swish, 2),
        _Row(5, 240, 40, True, nn.hard_swish, 1),
        _Row(5, 240, 40, True, nn.hard_swish, 1),
        _Row(5, 120, 48, True, nn.hard_swish, 1),
        _Row(5, 144, 48, True, nn.hard_swish, 1),
        _Row(5, 288, 96, True, nn.hard_swish, 2),
        _Row(5, 576, 96, True, nn.hard_swish, 1),
        _Row(5, 576, 96, True, nn.hard_swish, 1),
    ),
}
_CHOICES = {
    'size': ('large', 'small'),
    'variant': ('standard', 'seg', 'minimalistic'),
    'squeeze_excite_gate': tuple(GATES),
    'endpoints': ('inner', 'outputs', 'last_outputs'),
    'stride_convention': ('deeplab2', 'torchvision'),
    'output_stride': (4, 8, 16, 32),
}


class MobileNetV3(nn.Module):
    """MobileNetV3 up to its last 1x1 convolution before pooling.

    'last' has 960 (large) or 576 (small) channels at width 1, unless that convolution is left out.
    Once the running stride has reached `output_stride`, strides become 1 and blocks are dilated
    instead.

    Attributes:
      size: 'large' or 'small'.
      variant: 'standard'; 'seg', which halves the channels from the last stride on; 'minimalistic',
        which has 3x3 kernels and ReLU only and no squeeze-and-excite.
      squeeze_excite_gate: 'hard_sigmoid' (TF-slim, torchvision), 'rounded_hard_sigmoid' (Model
        Garden) or 'sigmoid' (DeepLab2).
      endpoints: features at each stride for decoders: 'inner', the depthwise convolution of the
        last block there (DeepLab, DeepLab2), or 'outputs', the output of the first block there
        (torchvision). At stride 32 it is 'last'. 'last_outputs' are the outputs of the last blocks,
        'last' among them: there is no last convolution (Model Garden).
      stride_convention: convention for the first dilated block: the one after that whose stride
        is replaced ('deeplab2', also TF-slim), or that block itself ('torchvision').
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales all channels, rounded to multiples of 8.

    Source: Howard et al., ICCV 2019; 'seg' and the endpoints of TF DeepLab.
    """

    size: str = 'large'
    variant: str = 'standard'
    squeeze_excite_gate: str = 'hard_sigmoid'
    endpoints: str = 'inner'
    stride_convention: str = 'deeplab2'
    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        activation = nn.relu if self.variant == 'minimalistic' else nn.hard_swish
        x = ConvNorm(
            make_divisible(_STEM_CHANNELS * self.width_multiplier),
            3,
            2,
            activation=activation,
            options=self.options,
            name='stem',
        )(x, train=train)
        endpoints = {}
        nominal_stride, channels = 2, _STEM_CHANNELS
        for index, row in enumerate(_make_rows(self.size, self.variant)):
            features = make_divisible(row.channels * self.width_multiplier)
            stride = row.stride if nominal_stride < self.output_stride else 1
            dilation_before = max(1, nominal_stride // self.output_stride)
            nominal_stride *= row.stride
            dilation_after = max(1, nominal_stride // self.output_stride)
            x, inner = InvertedResidual(
                features,
                # The expansion is relative to the rounded width of the input.
                make_divisible(row.expanded / channels * x.shape[-1]),
                row.kernel_size,
                stride,
                dilation_after if self.stride_convention == 'torchvision' else dilation_before,
                has_shortcut=row.stride == 1 and x.shape[-1] == features,
                activation=row.activation,
                squeeze_excite_gate=self.squeeze_excite_gate if row.has_squeeze_excite else None,
                options=self.options,
                name=f'block_{index}',
            )(x, train=train)
            channels = row.channels
            if 4 <= nominal_stride <= self.output_stride:
                if self.endpoints == 'inner':
                    endpoints[f'stride{nominal_stride}'] = inner
                elif self.endpoints == 'outputs':
                    endpoints.setdefault(f'stride{nominal_stride}', x)
                else:
                    endpoints[f'stride{nominal_stride}'] = x
        if self.endpoints == 'last_outputs':
            return {**endpoints, 'last': x}
        x = ConvNorm(
            make_divisible(6 * channels * self.width_multiplier),
            activation=activation,
            options=self.options,
            name='last_conv',
        )(x, train=train)
        if nominal_stride <= self.output_stride:
            endpoints[f'stride{nominal_stride}'] = x
        return {**endpoints, 'last': x}


def _make_rows(size: str, variant: str) -> tuple[_Row, ...]:
    rows = _ROWS[size]
    if variant == 'seg':
        # The last stride starts the last three blocks; the first also has its expansion halved.
        halved = (
            row._replace(expanded=row.expanded // 2, channels=row.channels // 2)
            for row in rows[-3:]
        )
        return (*rows[:-3], *halved)
    if variant == 'minimalistic':
        return tuple(
            row._replace(kernel_size=3, has_squeeze_excite=False, activation=nn.relu)
            for row in rows
        )
    return rows
