"""The factorised hierarchical space over MobileNet blocks: each stage decides for itself."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from pdl_jax.models.backbones.inverted_residual import make_divisible
from pdl_jax.models.backbones.mobile_blocks import (
    MOBILENET_V2,
    BlockGroup,
    format_architecture,
    parse_architecture,
)
from pdl_jax.search.space import Decision, choose_values


class Stage(NamedTuple):
    """The part of a skeleton that one group of blocks takes.

    Attributes:
      features: channels at width factor 1.
      layers: the numbers of blocks to choose from.
      stride: of the first block.
    """

    features: int
    layers: tuple[int, ...]
    stride: int


@dataclasses.dataclass(frozen=True)
class BlockSpace:
    """Architectures of `mobile_blocks`: a fixed stem, then a group of equal blocks per stage.

    Attributes:
      stem: the first convolution.
      stages: the skeleton.
      operators: (kind, expansion) of blocks, see `mobile_blocks.BlockGroup`.
      kernel_sizes: sides of their kernels in pixels.
      squeeze_excite: whether blocks have squeeze-and-excite; a plain convolution never has.
      skips: whether blocks add their input.
      width_factors: factors of a stage's channels, which are rounded to multiples of 8.

    Source: Tan et al., MnasNet, CVPR 2019; Liu et al., Search to Distill, CVPR 2020.
    """

    stem: BlockGroup
    stages: tuple[Stage, ...]
    operators: tuple[tuple[str, int], ...]
    kernel_sizes: tuple[int, ...] = (3, 5)
    squeeze_excite: tuple[bool, ...] = (False, True)
    skips: tuple[bool, ...] = (False, True)
    width_factors: tuple[float, ...] = (0.75, 1.0, 1.25)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """See `SearchSpace.decisions`; six per stage."""
        return _list_decisions(self)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `SearchSpace.decode`; in the notation of `parse_architecture`."""
        values = choose_values(self, tokens)
        groups = [self.stem]
        for i, stage in enumerate(self.stages):
            (kind, expansion), kernel_size, squeeze_excite, skip, features, layers = values[
                6 * i : 6 * i + 6
            ]
            groups.append(
                BlockGroup(
                    kind,
                    layers,
                    kernel_size,
                    stage.stride,
                    expansion,
                    features,
                    squeeze_excite and kind != 'cn',
                    skip,
                )
            )
        return format_architecture(tuple(groups))

    def encode(self, architecture: str) -> tuple[int, ...]:
        """See `SearchSpace.encode`."""
        stem, *groups = parse_architecture(architecture)
        strides = tuple(group.stride for group in groups)
        if stem != self.stem or strides != tuple(stage.stride for stage in self.stages):
            raise ValueError(f'the space does not have the stem and strides of {architecture!r}')
        tokens = []
        for i, group in enumerate(groups):
            values = (
                (group.kind, group.expansion),
                group.kernel_size,
                group.has_squeeze_excite,
                group.has_skip,
                group.features,
                group.repeats,
            )
            for decision, value in zip(self.decisions[6 * i : 6 * i + 6], values, strict=True):
                if value not in decision.values:
                    raise ValueError(
                        f'{decision.name} is one of {decision.values}, not {value}, in the space '
                        f'of {architecture!r}'
                    )
                tokens.append(decision.values.index(value))
        return tuple(tokens)


@functools.cache
def _list_decisions(space: BlockSpace) -> tuple[Decision, ...]:
    return tuple(
        Decision(f'stage {i}: {name}', values)
        for i, stage in enumerate(space.stages)
        for name, values in (
            ('operator', space.operators),
            ('kernel', space.kernel_sizes),
            ('squeeze-and-excite', space.squeeze_excite),
            ('skip', space.skips),
            ('width', _list_widths(stage, space.width_factors)),
            ('layers', stage.layers),
        )
    )


def _list_widths(stage: Stage, factors: Sequence[float]) -> tuple[int, ...]:
    widths = (make_divisible(stage.features * factor) for factor in factors)
    # Narrow stages round two factors to the same width.
    return tuple(dict.fromkeys(widths))


def _make_mobilenet_space() -> BlockSpace:
    """Makes the space around MobileNetV2: its groups, with a layer more or less."""
    stem, *groups = parse_architecture(MOBILENET_V2)
    stages = tuple(
        Stage(
            g.features, tuple(n for n in (g.repeats - 1, g.repeats, g.repeats + 1) if n), g.stride
        )
        for g in groups
    )
    return BlockSpace(stem, stages, (('cn', 1), ('ds', 1), ('ir', 3), ('ir', 6)))


# By `config.search.space`. 'small' has three stages for images of a few dozen pixels.
BLOCK_SPACES = {
    'mobilenet': _make_mobilenet_space(),
    'small': BlockSpace(
        BlockGroup('cn', 1, 3, 2, 1, 16, has_skip=False),
        (Stage(32, (1, 2, 3), 1), Stage(48, (1, 2, 3), 2), Stage(64, (1, 2, 3), 2)),
        (('ir', 2), ('ir', 4)),
        skips=(True,),
        width_factors=(0.5, 0.75, 1.0),
    ),
}
