"""ConvNeXts: blocks of a 7x7 depthwise convolution and two dense layers, with LayerNorm."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from pdl_jax.models.blocks import Conv, LayerOptions, check_choices, drop_path
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.typing import Array

_NORM_EPSILON = 1e-6
_INITIAL_LAYER_SCALE = 1e-6
_CHOICES = {'stem_padding': ('same', 'fixed'), 'output_stride': (4, 8, 16, 32)}
_kernel_init = nn.initializers.truncated_normal(0.02)


class ConvNeXt(nn.Module):
    """ConvNeXt without its classifier.

    Features, 'last' included, are sums of residual branches, neither activated nor normalised, as
    kMaX-DeepLab expects them; classifiers begin with a LayerNorm of their own.

    Once the running stride has reached `output_stride`, downsampling convolutions lose their stride
    and are dilated like the blocks before them; blocks after them are dilated by twice that. There
    is no BatchNorm, hence no 'batch_stats'.

    Images may have any size: the even kernels of the downsampling get zero padding as in
    TensorFlow's SAME, (1, 2) before the stem and (0, 1) later at sizes 4k + 1 and 2k + 1, none if
    the stride divides the size. PyTorch's ConvNeXts agree if it does; they drop the remainder of
    other sizes. kMaX-DeepLab pads at every size, which changes only what the stem sees: the last
    row and column are then often not used.

    Attributes:
      block_counts: blocks of the four stages.
      widths: channels of the four stages.
      stem_padding: 'same', or 'fixed' for (1, 2) at every size.
      drop_path_keep_prob: share of images that keep the last block's residual branch in training;
        falls linearly over the blocks from 1 at the first.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.

    Source: Liu et al., CVPR 2022; padding from kMaX-DeepLab in DeepLab2.
    """

    block_counts: tuple[int, int, int, int] = (3, 3, 9, 3)
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    stem_padding: str = 'same'
    drop_path_keep_prob: float = 1.0
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stem', 'stride4', 'stride8', ..., 'last'}; the stem has 4."""
        options = dataclasses.replace(self.options, padding='same')
        widths = [max(1, round(width * self.width_multiplier)) for width in self.widths]
        if self.stem_padding == 'fixed':
            x = _pad_stem(x)
        x = Conv(
            widths[0], 4, 4, has_bias=True, kernel_init=_kernel_init, options=options, name='stem'
        )(x)
        x = _layer_norm(options, 'stem_norm')(x)
        endpoints = {'stem': x}
        stride, block_index = 4, 0
        for stage, (count, width) in enumerate(zip(self.block_counts, widths, strict=True), 1):
            if stage > 1:
                dilation = max(1, stride // self.output_stride)
                is_strided = stride < self.output_stride
                x = Downsampling(
                    width, is_strided, dilation, options, name=f'stage{stage}_downsampling'
                )(x)
                stride *= 2
            for i in range(count):
                progress = block_index / max(1, sum(self.block_counts) - 1)
                x = ConvNeXtBlock(
                    max(1, stride // self.output_stride),
                    1 - (1 - self.drop_path_keep_prob) * progress,
                    options,
                    name=f'stage{stage}_block{i + 1}',
                )(x, train=train)
                block_index += 1
            if stride <= self.output_stride:
                endpoints[f'stride{stride}'] = x
        return {**endpoints, 'last': x}


class Downsampling(nn.Module):
    """LayerNorm and a 2x2 convolution, strided by 2 or dilated.

    Attributes:
      features: channels of the output.
      is_strided: whether to halve the resolution.
      dilation: distance in pixels of neighbours at the nominal stride; 1 if strided.
    """

    features: int
    is_strided: bool
    dilation: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width = x.shape[1:3]
        pads = [n % 2 if self.is_strided else self.dilation for n in (height, width)]
        # Padded before the norm, as in DeepLab2: the convolution reads the norm's bias there.
        x = jnp.pad(x, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)))
        x = _layer_norm(self.options, 'norm')(x)
        x = Conv(
            self.features,
            2,
            2 if self.is_strided else 1,
            self.dilation,
            has_bias=True,
            kernel_init=_kernel_init,
            options=self.options,
            name='conv',
        )(x)
        if self.is_strided:
            return x
        # SAME centres the dilated kernel, but its first tap belongs on the pixel.
        start = self.dilation // 2
        return x[:, start : start + height, start : start + width]


class ConvNeXtBlock(nn.Module):
    """A residual block: 7x7 depthwise convolution, LayerNorm, dense, GELU, dense, scale.

    The dense layers widen the channels by four and back.

    Attributes:
      dilation: dilation of the depthwise convolution.
      keep_prob: share of images that keep the residual branch in training.
    """

    dilation: int
    keep_prob: float
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = x.shape[-1]
        arguments = {'has_bias': True, 'kernel_init': _kernel_init, 'options': self.options}
        y = Conv(
            width, 7, dilation=self.dilation, is_depthwise=True, **arguments, name='depthwise'
        )(x)
        y = _layer_norm(self.options, 'norm')(y)
        y = nn.gelu(Conv(4 * width, **arguments, name='expand')(y), approximate=False)
        y = Conv(width, **arguments, name='project')(y)
        y = y * self.param(
            'layer_scale', nn.initializers.constant(_INITIAL_LAYER_SCALE), (width,), jnp.float32
        ).astype(y.dtype)
        return x + drop_path(self, y, self.keep_prob, train=train)


def _pad_stem(x: Array) -> Array:
    """Pads by 1 before, and behind to the next multiple of 4; crops the pixel that is too many."""
    rows, columns = ((1, 4 * ceil_div(n, 4) - n - 1, 0) for n in x.shape[1:3])
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))


def _layer_norm(options: LayerOptions, name: str) -> nn.LayerNorm:
    # Flax reduces in float32 whatever the dtype.
    return nn.LayerNorm(epsilon=_NORM_EPSILON, dtype=options.dtype, name=name)
