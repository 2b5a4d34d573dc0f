"""ResNets whose later units attend along the axes instead of convolving."""

import flax.linen as nn

from pdl_jax.models.axial_attention import AxialAttention2D
from pdl_jax.models.backbones.residual_units import add_branch, make_shortcut
from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.blocks import (
    ConvNorm,
    LayerOptions,
    UnitFeatures,
    check_choices,
    project_branch,
)
from pdl_jax.typing import Array


class AxialResNet(ResNet):
    """A ResNet with axial attention in place of the 3x3 convolutions of its later bottlenecks.

    The embeddings of distances are learned for the strides of the training: at another output
    stride the same variables give other features.

    Attributes:
      axial_from_stride: smallest stride (at output stride 32) of the input of units that attend: 0
        in Axial-ResNets, 16 in MaX-DeepLab-S, whose first unit of stage 4 is a convolution.
      stage_width_multiplier: scales the channels of the stages, but not those of the stem.

    Source: Wang et al., Axial-DeepLab, ECCV 2020, and MaX-DeepLab, CVPR 2021; details from
    DeepLab2.
    """

    axial_from_stride: int = 0
    stage_width_multiplier: float = 1.0

    def __post_init__(self) -> None:
        check_choices(
            self,
            {
                'block': ('bottleneck',),
                'output_stride': (16, 32),
                'multi_grid': ((),),
                # Attention reads whole rows and columns, whatever has halted.
                'adaptive_computation': ('',),
            },
        )
        super().__post_init__()

    def _make_unit(self, stage: int, i: int, stride: int, unit_stride: int) -> nn.Module:
        if stride < self.axial_from_stride:
            return super()._make_unit(stage, i, stride, unit_stride)
        step = unit_stride if stride < self.output_stride else 1
        return AxialBottleneck(
            self._stage_width(stage), step, **self._share_attributes(stage, i, stride)
        )

    def _stage_width(self, stage: int) -> int:
        return self._width(round(64 * 2**stage * self.stage_width_multiplier))


class AxialBottleneck(nn.Module):
    """A residual unit: 1x1, attention along both axes, 1x1.

    Attributes:
      width: a quarter of the channels of the result.
      stride: pixels per pixel of the result.
      keep_prob: share of images that keep the residual branch in training.
      options: options of all layers.
      key_expansion: channels of the queries and of the keys, in widths; values and the first
        convolution have twice as many.
    """

    width: int
    stride: int = 1
    keep_prob: float = 1.0
    options: LayerOptions = LayerOptions()
    key_expansion: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> UnitFeatures:
        """Maps float[B, h, w, C] to features with 4 * width channels."""
        shortcut = make_shortcut(x, 4 * self.width, self.stride, self.options, train=train)
        keys = self.key_expansion * self.width
        x = ConvNorm(2 * keys, options=self.options, name='conv1')(x, train=train)
        x = AxialAttention2D(
            keys,
            2 * keys,
            stride=self.stride,
            options=self.options,
            name='attention',
        )(x, train=train)
        x = self.options.activation(x)
        branch = project_branch(x, 4 * self.width, self.options, train=train, name='conv3')
        return add_branch(self, branch, shortcut, train=train)
