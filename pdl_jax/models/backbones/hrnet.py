"""HRNets: branches of four resolutions, fused after every module; and their classifier head."""

from collections.abc import Callable
from typing import cast

import flax.linen as nn

from pdl_jax.models.backbones.residual_units import BasicBlock, Bottleneck
from pdl_jax.models.blocks import (
    Conv,
    ConvNorm,
    LayerOptions,
    batch_norm,
    check_choices,
)
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array

_CHOICES = {'upsampling': ('bilinear', 'nearest'), 'output_stride': (4, 8, 16, 32)}
_BLOCKS_PER_BRANCH = 4


class HRNet(nn.Module):
    """HRNet-W18, -W32 and -W48; the branch of stride 4 * 2^i has width * 2^i channels.

    A branch whose nominal stride exceeds `output_stride` runs at that stride instead, its 3x3
    convolutions dilated by the quotient. Branches of equal size are fused without upsampling, so
    with the same weights smaller output strides do not quite give the features of larger ones: they
    compute pixels that larger ones interpolate.

    Attributes:
      width: channels of the branch at stride 4.
      module_counts: modules of stages 2, 3 and 4, which have two, three and four branches.
      upsampling: upsampling of coarser branches to finer ones, 'bilinear' with aligned corners
        (segmentation) or 'nearest' (ImageNet).
      output_stride: 4, 8, 16 or 32.
      width_multiplier: scales the channels of every layer.

    Source: Wang et al., arXiv 1908.07919; last BatchNorms of residual blocks start at zero, as in
    our ResNets.
    """

    width: int = 48
    module_counts: tuple[int, int, int] = (1, 4, 3)
    upsampling: str = 'bilinear'
    output_stride: int = 32
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, 3] to {'stride4', 'stride8', ..., 'last'}, the coarsest branch."""
        stem_width, width = (
            max(1, round(channels * self.width_multiplier)) for channels in (64, self.width)
        )
        for i in (1, 2):
            x = ConvNorm(stem_width, 3, 2, options=self.options, name=f'stem_{i}')(x, train=train)
        for i in range(4):
            unit = Bottleneck(stem_width, 1, 1, options=self.options, name=f'stage1_block{i + 1}')
            x = unit(x, train=train).activated
        branches = [x]
        for stage, count in enumerate(self.module_counts, 2):
            stride, dilation = _downsampling(stage - 2, self.output_stride)
            coarsest = ConvNorm(
                width * 2 ** (stage - 1),
                3,
                stride,
                dilation,
                options=self.options,
                name=f'transition{stage - 1}_branch{stage}',
            )(branches[-1], train=train)
            if stage == 2:
                branches = [
                    ConvNorm(width, 3, options=self.options, name='transition1_branch1')(
                        x, train=train
                    )
                ]
            branches.append(coarsest)
            for i in range(count):
                module = HRModule(
                    width,
                    self.upsampling,
                    self.output_stride,
                    self.options,
                    name=f'stage{stage}_module{i + 1}',
                )
                branches = module(branches, train=train)
        strides = [4 * 2**i for i in range(len(branches))]
        endpoints = {
            f'stride{s}': x
            for s, x in zip(strides, branches, strict=True)
            if s <= self.output_stride
        }
        return {**endpoints, 'last': branches[-1]}


class HRModule(nn.Module):
    """Four basic blocks per branch, then fusion: each output is the activated sum of all branches.

    Attributes:
      width: channels of the finest branch; they double from branch to branch.
      upsampling, output_stride: as in `HRNet`.
    """

    width: int
    upsampling: str
    output_stride: int
    options: LayerOptions

    @nn.compact
    def __call__(self, branches: list[Array], *, train: bool) -> list[Array]:
        """Maps float[B, h_i, w_i, C_i], fine to coarse, to arrays of the same shapes."""
        inputs = []
        for i, x in enumerate(branches):
            _, dilation = _downsampling(i, self.output_stride)
            for block in range(_BLOCKS_PER_BRANCH):
                name = f'branch{i + 1}_block{block + 1}'
                unit = BasicBlock(
                    self.width * 2**i, (1, 1), (dilation, dilation), options=self.options, name=name
                )
                x = unit(x, train=train).activated
            inputs.append(x)
        outputs = []
        for target, y in enumerate(inputs):
            for source, x in enumerate(inputs):
                if source < target:
                    y = y + self._downsample(x, source, target, train)
                elif source > target:
                    y = y + self._upsample(x, source, target, inputs[target].shape[1:3], train)
            outputs.append(nn.relu(y))
        return outputs

    def _downsample(self, x: Array, source: int, target: int, train: bool) -> Array:
        for i in range(source, target):
            is_last = i == target - 1
            stride, dilation = _downsampling(i, self.output_stride)
            x = ConvNorm(
                self.width * 2 ** (target if is_last else source),
                3,
                stride,
                dilation,
                activation=None if is_last else nn.relu,
                options=self.options,
                name=f'fusion{source + 1}to{target + 1}_conv{i - source + 1}',
            )(x, train=train)
        return x

    def _upsample(
        self, x: Array, source: int, target: int, size: tuple[int, int], train: bool
    ) -> Array:
        name = f'fusion{source + 1}to{target + 1}'
        x = ConvNorm(self.width * 2**target, activation=None, options=self.options, name=name)(
            x, train=train
        )
        if self.upsampling == 'bilinear':
            return resize_bilinear(x, size)
        coarse, fine = (min(4 * 2**i, self.output_stride) for i in (source, target))
        # Repeating by the ratio of strides covers any size, because sizes are rounded up.
        return x.repeat(coarse // fine, axis=1).repeat(coarse // fine, axis=2)[
            :, : size[0], : size[1]
        ]


class HRNetHead(nn.Module):
    """Layers of HRNet's ImageNet classifiers between the branches and the pooling.

    Source: the classification code of the HRNet authors, whose strided convolutions have a bias in
    spite of their BatchNorm.
    """

    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Maps features of an `HRNet` of output stride 32 to float[B, h, w, 2048] at stride 32.

        Raises:
          ValueError: the features have another output stride.
        """
        if 'stride32' not in features:
            raise ValueError(
                'HRNetHead needs an HRNet of output_stride=32; it got the features '
                f'{sorted(features)}'
            )
        total = cast(Array, 0.0)
        for i, stride in enumerate((4, 8, 16, 32)):
            if i > 0:
                layer = BiasedConvNorm(
                    128 * 2**i, 3, 2, options=self.options, name=f'downsample{i}'
                )
                total = layer(total, train=train)
            unit = Bottleneck(32 * 2**i, 1, 1, options=self.options, name=f'increase{i + 1}')
            total = total + unit(features[f'stride{stride}'], train=train).activated
        return BiasedConvNorm(2048, options=self.options, name='last')(total, train=train)


class BiasedConvNorm(nn.Module):
    """Convolution with a bias, BatchNorm, activation."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    activation: Callable[[Array], Array] = nn.relu
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        conv = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            has_bias=True,
            options=self.options,
            name='conv',
        )
        return self.activation(batch_norm(self.options, train=train)(conv(x)))


def _downsampling(branch: int, output_stride: int) -> tuple[int, int]:
    """Returns stride and dilation of the 3x3 convolution from a branch (0: finest) to the next."""
    nominal = 4 * 2**branch
    return (2 if nominal < output_stride else 1), max(1, nominal // output_stride)
