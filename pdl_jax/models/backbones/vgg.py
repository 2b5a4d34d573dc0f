"""VGG-16 as a segmentation backbone."""

import flax.linen as nn

from pdl_jax.models.blocks import Conv, LayerOptions, check_choices
from pdl_jax.ops.padding import symmetric_padding
from pdl_jax.ops.pooling import max_pool
from pdl_jax.typing import Array

# (channels, convolutions) of the five stages; a max-pool follows each.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_CHOICES = {
    'output_stride': (4, 8, 16, 32),
    'stride_convention': ('caffe', 'torchvision'),
}


class VGG16(nn.Module):
    """VGG-16 without its classifier; every convolution has a bias and a ReLU, and none a BatchNorm.

    Beyond `output_stride` pools have stride 1, and the convolutions behind them are dilated.

    Attributes:
      stride_convention: 'caffe', DeepLab's pools of 3x3 pixels with a padding of 1, which keep the
        size where they lost their stride; or 'torchvision', pools of 2x2 pixels without padding, as
        its classifier has, for output stride 32 alone.
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.

    Source: Simonyan and Zisserman, ICLR 2015; Chen et al., DeepLab, ICLR 2015.
    """

    stride_convention: str = 'caffe'
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        if self.stride_convention == 'torchvision' and self.output_stride != 32:
            raise ValueError(
                f"VGG16 stride_convention='torchvision' has output_stride=32, not "
                f"{self.output_stride}: pools of 2x2 pixels need their stride, use 'caffe'"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride2', 'stride4', ..., 'last'}, behind the pools."""
        del train  # It has no layer that depends on it.
        endpoints = {}
        stride, dilation = 1, 1
        for stage, (channels, count) in enumerate(_STAGES, 1):
            for i in range(1, count + 1):
                conv = Conv(
                    max(8, int(channels * self.width_multiplier + 4) // 8 * 8),
                    3,
                    dilation=dilation,
                    has_bias=True,
                    options=self.options,
                    name=f'stage{stage}_conv{i}',
                )
                x = self.options.activation(conv(x))
            is_strided = stride < self.output_stride
            x = self._pool(x, 2 if is_strided else 1)
            stride *= 2
            if is_strided:
                endpoints[f'stride{stride}'] = x
            elif stage < len(_STAGES):
                dilation *= 2
        return {**endpoints, 'last': x}

    def _pool(self, x: Array, stride: int) -> Array:
        if self.stride_convention == 'torchvision':
            return max_pool(x, 2, stride, ((0, 0), (0, 0)))
        return max_pool(x, 3, stride, symmetric_padding(3, 1))
