"""A backbone of MobileNet blocks that a text lists, such as an architecture that a search found."""

import re
from typing import NamedTuple

import flax.linen as nn

from pdl_jax.models.backbones.inverted_residual import InvertedResidual, make_divisible
from pdl_jax.models.blocks import ConvNorm, LayerOptions
from pdl_jax.typing import Array

# MobileNetV2's.
MOBILENET_V2 = (
    'cn_r1_k3_s2_c32_noskip,ds_r1_k3_s1_c16,ir_r2_k3_s2_e6_c24,ir_r3_k3_s2_e6_c32,'
    'ir_r4_k3_s2_e6_c64,ir_r3_k3_s1_e6_c96,ir_r3_k3_s2_e6_c160,ir_r1_k3_s1_e6_c320'
)
_GROUP = re.compile(
    r'(?P<kind>cn|ds|ir)_r(?P<repeats>\d{1,2})_k(?P<kernel_size>\d{1,2})_s(?P<stride>[12])'
    r'(?:_e(?P<expansion>\d{1,2}))?_c(?P<features>\d{1,4})'
    r'(?P<squeeze_excite>_se0\.25)?(?P<noskip>_noskip)?'
)
# An architecture may come with a checkpoint.
_MAX_GROUPS = 32


class BlockGroup(NamedTuple):
    """Equal blocks in a row.

    Attributes:
      kind: 'cn', a convolution, 'ds', a depthwise separable one, or 'ir', an inverted residual.
      repeats: number of blocks.
      kernel_size: side of their kernels in pixels, odd.
      stride: of the first block, 1 or 2.
      expansion: factor of the channels inside of 'ir'; 1 for the other kinds.
      features: channels of their outputs.
      has_squeeze_excite: whether 'ds' and 'ir' have squeeze-and-excite, reduced to a quarter.
      has_skip: whether a block adds its input where the shapes agree.
    """

    kind: str
    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    features: int
    has_squeeze_excite: bool = False
    has_skip: bool = True


def format_architecture(groups: tuple[BlockGroup, ...]) -> str:
    """Writes groups in the notation that `parse_architecture` reads."""
    return ','.join(
        f'{g.kind}_r{g.repeats}_k{g.kernel_size}_s{g.stride}'
        + (f'_e{g.expansion}' if g.kind == 'ir' else '')
        + f'_c{g.features}'
        + ('_se0.25' if g.has_squeeze_excite else '')
        + ('' if g.has_skip else '_noskip')
        for g in groups
    )


def parse_architecture(text: str) -> tuple[BlockGroup, ...]:
    """Reads groups of blocks from the notation of MnasNet and timm.

    `ir_r3_k5_s2_e6_c40_se0.25` are three inverted residuals with kernels of 5x5, the first of
    stride 2, expansion 6, 40 channels and squeeze-and-excite; `_noskip` at the end leaves out the
    residual connections. Groups are separated by commas; the first reads the image.

    Raises:
      ValueError: the text is no such list, or a group contradicts itself.
    """
    parts = text.split(',')
    if len(parts) > _MAX_GROUPS:
        raise ValueError(
            f'model.architecture has {len(parts)} groups of blocks: give at most {_MAX_GROUPS}'
        )
    return tuple(_parse_group(part.strip()) for part in parts)


def _parse_group(text: str) -> BlockGroup:
    match = _GROUP.fullmatch(text)
    where = f'model.architecture: the group {text[:40]!r}'
    if match is None:
        raise ValueError(f"{where} must read like 'ir_r3_k5_s2_e6_c40_se0.25_noskip'")
    group = BlockGroup(
        match['kind'],
        repeats=int(match['repeats']),
        kernel_size=int(match['kernel_size']),
        stride=int(match['stride']),
        expansion=int(match['expansion'] or 1),
        features=int(match['features']),
        has_squeeze_excite=match['squeeze_excite'] is not None,
        has_skip=match['noskip'] is None,
    )
    if (match['expansion'] is not None) != (group.kind == 'ir'):
        raise ValueError(f"{where}: 'ir' needs an expansion such as e6, and the others have none")
    if group.kind == 'cn' and group.has_squeeze_excite:
        raise ValueError(f"{where}: 'cn' has no squeeze-and-excite: leave se0.25 out")
    if group.kernel_size % 2 == 0 or 0 in (group.repeats, group.expansion, group.features):
        raise ValueError(f'{where} needs an odd kernel, and blocks, expansion and channels above 0')
    return group


class MobileBlocks(nn.Module):
    """The blocks of an architecture, one after the other.

    Once the running stride has reached `output_stride`, strides become 1 and the blocks *after* the
    replaced stride are dilated, as in `MobileNetV2`, which the default is.

    Attributes:
      output_stride: 4, 8, 16 or 32, at most the product of the strides.
      width_multiplier: scales all channels, rounded to multiples of 8.
      architecture: see `parse_architecture`.

    Source: Tan et al., MnasNet, CVPR 2019. Its squeeze-and-excite reduces the channels of a block's
    input to a quarter, MobileNetV3's, which this has, the expanded ones.
    """

    output_stride: int = 16
    width_multiplier: float = 1.0
    options: LayerOptions = LayerOptions()
    architecture: str = MOBILENET_V2

    def __post_init__(self) -> None:
        stride = find_stride(self.architecture)
        if stride < self.output_stride:
            raise ValueError(
                f'model.architecture ends at stride {stride}: set model.output_stride '
                f'(={self.output_stride}) to it'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> dict[str, Array]:
        """Maps float[B, H, W, C] to {'stride2', 'stride4', ..., 'last'}."""
        endpoints = {}
        nominal_stride, index = 1, 0
        for group in parse_architecture(self.architecture):
            for i in range(group.repeats):
                block_stride = group.stride if i == 0 else 1
                x = self._apply_block(
                    group,
                    x,
                    block_stride if nominal_stride < self.output_stride else 1,
                    max(1, nominal_stride // self.output_stride),
                    has_skip=group.has_skip and block_stride == 1,
                    name=f'block_{index}',
                    train=train,
                )
                nominal_stride *= block_stride
                index += 1
            if 2 <= nominal_stride <= self.output_stride:
                endpoints[f'stride{nominal_stride}'] = x
        return {**endpoints, 'last': x}

    def _apply_block(
        self,
        group: BlockGroup,
        x: Array,
        stride: int,
        dilation: int,
        *,
        has_skip: bool,
        name: str,
        train: bool,
    ) -> Array:
        features = make_divisible(group.features * self.width_multiplier)
        has_skip = has_skip and x.shape[-1] == features
        if group.kind == 'cn':
            y = ConvNorm(
                features,
                group.kernel_size,
                stride,
                dilation,
                nn.relu6,
                options=self.options,
                name=name,
            )(x, train=train)
            return x + y if has_skip else y
        y, _ = InvertedResidual(
            features,
            x.shape[-1] * group.expansion,
            group.kernel_size,
            stride,
            dilation,
            has_shortcut=has_skip,
            squeeze_excite_gate='sigmoid' if group.has_squeeze_excite else None,
            options=self.options,
            name=name,
        )(x, train=train)
        return y


def find_stride(architecture: str) -> int:
    """Returns the product of the strides of an architecture."""
    return 2 ** sum(group.stride == 2 for group in parse_architecture(architecture))
