"""MobileNetV2 as a segmentation backbone."""

import flax.linen as nn

from pdl_jax.models.backbones.inverted_residual import InvertedResidual, make_divisible
from pdl_jax.models.blocks import ConvNorm, LayerOptions, check_choices
from pdl_jax.typing import Array

# (expansion, channels, repeats, stride of the first) of the seven groups.
_GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_CHOICES = {'output_stride': (4, 8, 16, 32), 'endpoints': ('outputs', 'inner')}


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier; 'last' has 320 channels at width 1.

    Once the running stride has reached `output_stride`, strides become 1 and the blocks *after* the
    replaced stride are dilated.

    Attributes:
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales all channels, rounded to multiples of 8.
      kernel_size: side of the depthwise convolutions; 5 in DeeperLab's Wide MobileNetV2.
      endpoints: features of the last block at each stride for decoders: 'outputs' (24, 32 and 96
        channels, PyTorch Panoptic-DeepLab) or 'inner', its depthwise convolution (144, 192 and 576
        channels, DeepLab in TensorFlow).

    Source: Sandler et al., CVPR 2018; atrous rule of TF-slim.
    """

    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()
    endpoints: str = 'outputs'
    kernel_size: int = 3

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride2', 'stride4', ..., 'last'}."""
        x = ConvNorm(
            make_divisible(32 * self.width_multiplier),
            3,
            2,
            activation=nn.relu6,
            options=self.options,
            name='stem',
        )(x, train=train)
        endpoints = {}
        nominal_stride, index, inner = 2, 0, x
        for expansion, channels, repeats, first_stride in _GROUPS:
            features = make_divisible(channels * self.width_multiplier)
            for i in range(repeats):
                block_stride = first_stride if i == 0 else 1
                x, inner = InvertedResidual(
                    features,
                    x.shape[-1] * expansion,
                    self.kernel_size,
                    stride=block_stride if nominal_stride < self.output_stride else 1,
                    dilation=max(1, nominal_stride // self.output_stride),
                    has_shortcut=block_stride == 1 and x.shape[-1] == features,
                    options=self.options,
                    name=f'block_{index}',
                )(x, train=train)
                nominal_stride *= block_stride
                index += 1
            if nominal_stride <= self.output_stride:
                endpoints[f'stride{nominal_stride}'] = inner if self.endpoints == 'inner' else x
        return {**endpoints, 'last': x}
