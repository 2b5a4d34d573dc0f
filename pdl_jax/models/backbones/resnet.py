"""ResNet with bottleneck blocks, as DeepLab2 builds it."""

import flax.linen as nn

from pdl_jax.models.blocks import ConvNorm, LayerOptions
from pdl_jax.typing import Array


class ResNet(nn.Module):
    """A ResNet whose stride stops at `output_stride`, dilating instead.

    Nothing is max-pooled: the second stride lies in the first block of the first stage. A stage whose stride is replaced keeps
    dilation 1 in its first block; the blocks after it double theirs.

    Attributes:
      block_counts: blocks of the four stages.
      stem: 'plain' (one 7x7) or 'beta' (three 3x3, the Inception stem).
      output_stride: 8, 16 or 32.
      width_multiplier: scales the channels of every layer.

    Source: He et al., CVPR 2016; strides, stems and zero-initialised last BatchNorms of DeepLab2.
    """

    block_counts: tuple[int, ...]
    stem: str = 'plain'
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}."""
        x = nn.relu(self._stem(x, train))
        endpoints = {}
        stride = 2
        for stage, blocks in enumerate(self.block_counts):
            for i in range(blocks):
                step = 2 if i == 0 and stride < self.output_stride else 1
                x = Bottleneck(
                    self._width(64 * 2**stage),
                    stride=step,
                    dilation=max(1, stride // self.output_stride),
                    options=self.options,
                    name=f'stage{stage + 2}_block{i + 1}',
                )(x, train=train)
                if i == 0:
                    # The nominal stride doubles after the first block, whether that block strided or not.
                    stride *= 2
            if stride <= self.output_stride:
                endpoints[f'stride{stride}'] = x
        return {**endpoints, 'last': x}

    def _width(self, channels):
        return max(8, int(channels * self.width_multiplier + 4) // 8 * 8)

    def _stem(self, x, train):
        if self.stem == 'plain':
            return ConvNorm(
                self._width(64), 7, 2, activation=None, options=self.options, name='stem'
            )(x, train=train)
        if self.stem != 'beta':
            raise ValueError(f"ResNet stem must be 'plain' or 'beta', not {self.stem!r}")
        for i, (width, stride, activation) in enumerate(
            [(64, 2, nn.relu), (64, 1, nn.relu), (128, 1, None)], 1
        ):
            x = ConvNorm(
                self._width(width),
                3,
                stride,
                activation=activation,
                options=self.options,
                name=f'stem_{i}',
            )(x, train=train)
        return x


class Bottleneck(nn.Module):
    """1x1, 3x3 with stride and dilation, 1x1 to four times the width; plus the shortcut."""

    width: int
    stride: int
    dilation: int
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shortcut = x[:, :: self.stride, :: self.stride]
        if x.shape[-1] != 4 * self.width:
            shortcut = ConvNorm(
                4 * self.width, activation=None, options=self.options, name='shortcut'
            )(shortcut, train=train)
        x = ConvNorm(self.width, options=self.options, name='conv1')(x, train=train)
        x = ConvNorm(
            self.width, 3, self.stride, self.dilation, options=self.options, name='conv2'
        )(x, train=train)
        x = ConvNorm(
            4 * self.width,
            activation=None,
            scale_init=nn.initializers.zeros,
            options=self.options,
            name='conv3',
        )(x, train=train)
        return nn.relu(x + shortcut)
