"""What a source of weights is: how its keys map to our variables, and which networks it has."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pdl_jax.convert.rules import Rule
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import make_options


@dataclasses.dataclass(frozen=True)
class Source:
    """A program that publishes weights.

    Attributes:
      name: as `--from` takes it.
      make_rules: from a network and the keys of a file to the rules for them; the rules cover a whole network and a backbone
        alone.
      presets: its whole networks.
      backbones: those that it publishes alone, by our names; fields of `ModelOptions` that say how they were trained. Several
        where a name comes in several widths.
      config_fields: how it tests its networks, by dataset: fields of the configuration beside those of the presets.
    """

    name: str
    make_rules: Callable[[ModelOptions, Collection[str]], tuple[Rule, ...]]
    presets: tuple[str, ...] = ()
    backbones: Mapping[str, tuple[Mapping[str, Any], ...]] = dataclasses.field(default_factory=dict)
    config_fields: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that a file may be of.

    Attributes:
      name: its preset; 'imagenet/...' for a backbone alone.
      options: what it is made of.
    """

    name: str
    options: ModelOptions


def list_backbones(source: Source) -> list[Network]:
    """The backbones that a source publishes alone, as they were trained."""
    return [
        Network(f'imagenet/{backbone}', make_options(f'imagenet/{backbone}', **fields))
        for backbone, variants in source.backbones.items()
        for fields in variants
    ]
