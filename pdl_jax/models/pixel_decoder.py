"""kMaX-DeepLab's pixel decoder: residual stages, coarse to fine, fused with maps of the encoder."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn

from pdl_jax.models.axial_attention import AxialAttention2D
from pdl_jax.models.blocks import ConvNorm, LayerOptions, project_branch
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array

# Residual blocks multiply the width of their stage by this.
EXPANSION = 4
_NORM_EPSILON = 1e-6
BLOCKS = ('axial', 'bottleneck')
RESIZES = ('corner_aligned', 'half_pixel', 'by_parity')


class DecoderStage(NamedTuple):
    """A stage of the decoder.

    Attributes:
      block: 'axial' or 'bottleneck'.
      features: width of the middle of its blocks; the output has four times as many channels.
      num_blocks: blocks in a row.
    """

    block: str
    features: int
    num_blocks: int = 1


def resize_mode(convention: str, size: int) -> str:
    """Finds the mode of `resize_bilinear` by the convention of a network.

    Args:
      convention: a mode, or 'by_parity': corners are aligned if the size is odd, as in the PyTorch
        program, which takes inputs of any size.
      size: the number of pixels that decides.
    """
    if convention == 'by_parity':
        return 'corner_aligned' if size % 2 else 'half_pixel'
    return convention


class PixelDecoder(nn.Module):
    """Decodes maps of an encoder, stage by stage.

    Attributes:
      stages: one for each map, coarse to fine.
      resize: 'corner_aligned' (DeepLab2), 'half_pixel', or 'by_parity' of the coarser map's width.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022; DeepLab2's model/pixel_decoder/kmax.py.
    """

    stages: tuple[DecoderStage, ...]
    resize: str = 'corner_aligned'
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: Sequence[Array], *, train: bool) -> list[Array]:
        """Decodes float[B, h, w, C] maps, coarse to fine, to the outputs of all stages."""
        norms = [
            nn.LayerNorm(epsilon=_NORM_EPSILON, dtype=self.options.dtype, name=f'norm{i}')
            for i in range(1, len(features) + 1)
        ]
        x, outputs = norms[0](features[0]), []
        for i, stage in enumerate(self.stages, 1):
            if i > 1:
                fusion = ResizedFusion(
                    stage.features, self.resize, self.options, name=f'fusion{i - 1}'
                )
                x = fusion(x, norms[i - 1](features[i - 1]), train=train)
            for j in range(1, stage.num_blocks + 1):
                block = ResidualBlock(
                    stage.block, stage.features, self.options, name=f'stage{i}_block{j}'
                )
                x = block(x, train=train)
            outputs.append(x)
        return outputs


class ResidualBlock(nn.Module):
    """A pre-activated residual block: 1x1, axial attention or a 3x3 convolution, 1x1.

    Attributes:
      block: 'axial' or 'bottleneck'.
      features: width of the 3x3 convolution and of attention's keys; its values have twice as many.
    """

    block: str
    features: int
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.block not in BLOCKS:
            raise ValueError(f'ResidualBlock block must be one of {BLOCKS}, not {self.block!r}')
        options, width = self.options, EXPANSION * self.features
        x = options.activation(x)
        shortcut = x
        if x.shape[-1] != width:
            shortcut = ConvNorm(width, activation=None, options=options, name='shortcut')(
                x, train=train
            )
        if self.block == 'axial':
            x = ConvNorm(2 * self.features, options=options, name='conv1')(x, train=train)
            attention = AxialAttention2D(
                key_features=self.features,
                value_features=2 * self.features,
                options=options,
                name='attention',
            )
            x = options.activation(attention(x, train=train))
        else:
            x = ConvNorm(self.features, options=options, name='conv1')(x, train=train)
            x = ConvNorm(self.features, 3, options=options, name='conv2')(x, train=train)
        return project_branch(x, width, options, train=train, name='conv3') + shortcut


class ResizedFusion(nn.Module):
    """The sum of an upsampled map and a finer one, each projected if its width differs.

    Attributes:
      features: channels of the result.
      resize: see `PixelDecoder`.
    """

    features: int
    resize: str
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, coarse: Array, fine: Array, *, train: bool) -> Array:
        coarse = self._project(coarse, 'project_coarse', train)
        mode = resize_mode(self.resize, coarse.shape[2])
        height, width = fine.shape[1:3]
        coarse = resize_bilinear(coarse, (height, width), mode)
        return coarse + self._project(fine, 'project_fine', train)

    def _project(self, x: Array, name: str, train: bool) -> Array:
        if x.shape[-1] == self.features:
            return x
        layer = ConvNorm(self.features, activation=None, options=self.options, name=name)
        return layer(self.options.activation(x), train=train)
