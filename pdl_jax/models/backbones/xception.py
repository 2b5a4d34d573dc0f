"""Xception-41, -65 and -71 as modified by DeepLab.

They are deeper, have no pooling, and BatchNorm follows every depthwise convolution.
"""

from typing import NamedTuple

import flax.linen as nn

from pdl_jax.models.backbones.inverted_residual import make_divisible
from pdl_jax.models.blocks import ConvNorm, LayerOptions, check_choices
from pdl_jax.typing import Array

# (channels, stride) of the modules of the entry flow, and the number of modules of the middle flow.
_LAYOUTS = {
    41: (((128, 2), (256, 2), (728, 2)), 8),
    65: (((128, 2), (256, 2), (728, 2)), 16),
    71: (((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 16),
}
_CHOICES = {
    'depth': tuple(_LAYOUTS),
    'endpoints': ('inner', 'middle_flow', 'first'),
    'output_stride': (4, 8, 16, 32),
}
_kernel_init = nn.initializers.truncated_normal(0.09)


class _Module(NamedTuple):
    """One module of the network at width 1."""

    name: str
    channels: tuple[int, ...]
    shortcut: str
    stride: int


class Xception(nn.Module):
    """Modified aligned Xception; 'last' has 2048 channels at width 1.

    Once the running stride has reached `output_stride`, strides become 1 and the modules *after*
    the replaced stride are dilated.

    Attributes:
      depth: 41, 65 or 71.
      endpoints: features at strides 4, 8 and 16 for decoders: 'inner', the second separable
        convolution of the module that leaves that stride, before its ReLU (256, 728 and 1024
        channels, TF DeepLab); or 'middle_flow', the same at strides 4 and 8 but the output of the
        middle flow at stride 16 (728 channels, PyTorch Panoptic-DeepLab); or 'first', the output of
        the module that reaches the stride (128, 256 and 728 channels of Xception-71, DeeperLab).
      multi_grid: factors of the dilations of the last module's three convolutions; empty for none.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales all channels, rounded to multiples of 8.

    Source: Chollet, CVPR 2017; Qi et al., COCO detection challenge 2017; Chen et al., DeepLabv3+,
    ECCV 2018.
    """

    depth: int = 65
    endpoints: str = 'inner'
    multi_grid: tuple[int, ...] = ()
    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        if len(self.multi_grid) not in (0, 3):
            raise ValueError(
                f'Xception multi_grid {self.multi_grid} must be empty or have three factors'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        for i, (channels, stride) in enumerate(((32, 2), (64, 1)), 1):
            x = ConvNorm(
                make_divisible(channels * self.width_multiplier),
                3,
                stride,
                kernel_init=_kernel_init,
                options=self.options,
                name=f'stem_{i}',
            )(x, train=train)
        endpoints = {}
        nominal_stride = 2
        modules = _make_modules(self.depth)
        for module in modules:
            dilation = max(1, nominal_stride // self.output_stride)
            factors = self.multi_grid if module is modules[-1] and self.multi_grid else (1, 1, 1)
            module_input = x
            x, inner = XceptionModule(
                tuple(
                    make_divisible(channels * self.width_multiplier) for channels in module.channels
                ),
                module.shortcut,
                module.stride if nominal_stride < self.output_stride else 1,
                tuple(dilation * factor for factor in factors),
                self.options,
                name=module.name,
            )(x, train=train)
            is_first = self.endpoints == 'first'
            if not is_first and module.stride == 2 and 4 <= nominal_stride <= self.output_stride:
                is_input_read = self.endpoints == 'middle_flow' and module.name == 'exit_block1'
                endpoints[f'stride{nominal_stride}'] = module_input if is_input_read else inner
            nominal_stride *= module.stride
            if is_first and module.stride == 2 and nominal_stride <= self.output_stride:
                endpoints[f'stride{nominal_stride}'] = x
        if nominal_stride <= self.output_stride:
            endpoints[f'stride{nominal_stride}'] = x
        return {**endpoints, 'last': x}


class XceptionModule(nn.Module):
    """Three 3x3 separable convolutions, the last with the stride; plus the shortcut.

    The sum is not activated. ReLU precedes each depthwise convolution; only without a shortcut, at
    the end of the network, it follows both parts of every separable convolution instead.

    Attributes:
      features: channels of the three convolutions.
      shortcut: 'conv' (1x1 with the stride), 'sum' (the input) or 'none'.
      stride: stride of the last convolution.
      dilations: dilations of the three convolutions.
    """

    features: tuple[int, ...]
    shortcut: str
    stride: int
    dilations: tuple[int, ...]
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Maps float[B, H, W, C] to the output and that of the second separable convolution."""
        is_activated_after = self.shortcut == 'none'
        activation = nn.relu if is_activated_after else None
        y = inner = x
        for i, (features, dilation) in enumerate(
            zip(self.features, self.dilations, strict=True), 1
        ):
            y = ConvNorm(
                y.shape[-1],
                3,
                self.stride if i == 3 else 1,
                dilation,
                activation,
                is_depthwise=True,
                kernel_init=_kernel_init,
                options=self.options,
                name=f'separable_conv{i}_depthwise',
            )(y if is_activated_after else nn.relu(y), train=train)
            y = ConvNorm(
                features,
                activation=activation,
                kernel_init=_kernel_init,
                options=self.options,
                name=f'separable_conv{i}_pointwise',
            )(y, train=train)
            if i == 2:
                inner = y
        if self.shortcut == 'conv':
            y = y + ConvNorm(
                self.features[-1],
                stride=self.stride,
                activation=None,
                kernel_init=_kernel_init,
                options=self.options,
                name='shortcut',
            )(x, train=train)
        elif self.shortcut == 'sum':
            y = y + x
        return y, inner


def _make_modules(depth: int) -> list[_Module]:
    entry, middle_count = _LAYOUTS[depth]
    return [
        *(
            _Module(f'entry_block{i}', (channels,) * 3, 'conv', stride)
            for i, (channels, stride) in enumerate(entry, 1)
        ),
        *(_Module(f'middle_block{i}', (728,) * 3, 'sum', 1) for i in range(1, middle_count + 1)),
        _Module('exit_block1', (728, 1024, 1024), 'conv', 2),
        _Module('exit_block2', (1536, 1536, 2048), 'none', 1),
    ]
