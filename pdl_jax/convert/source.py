"""Sources of weights: their rules from keys to variables, and their networks."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pdl_jax.convert.networks import Network
from pdl_jax.convert.rules import Rule
from pdl_jax.presets import make_options


@dataclasses.dataclass(frozen=True)
class Source:
    """A program that publishes weights.

    Attributes:
      name: value of the flag `--from`.
      make_rules: function from a network and the keys of a file to the rules for them; the rules
        cover a whole network and a backbone alone.
      presets: presets of its whole networks.
      has_things_first: whether the class logits of its mask transformers count things before stuff,
        each in the order of the classes.
      backbones: fields of `ModelOptions` with which it trained the backbones that it publishes
        alone, by our names; several entries for a name with several widths.
      config_fields: fields of the configuration with which it tests its DeepLabs, beside those of
        the presets, by dataset; presets have all those of mask transformers.
      network_fields: the fields in which it tests a network differently from its others, by dataset
        and preset.
    """

    name: str
    make_rules: Callable[[Any, Collection[str]], tuple[Rule, ...]]
    presets: tuple[str, ...] = ()
    has_things_first: bool = False
    backbones: Mapping[str, tuple[Mapping[str, Any], ...]] = dataclasses.field(default_factory=dict)
    config_fields: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    network_fields: Mapping[tuple[str, str], Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )


def list_config_fields(source: Source, network: Network, dataset: str) -> dict[str, Any]:
    """Lists the fields of the configuration with which a source tests a network."""
    if not network.counts_void:
        return {}
    own = source.network_fields.get((dataset, network.name), {})
    return {**source.config_fields.get(dataset, {}), **own}


def list_backbones(source: Source) -> list[Network]:
    """Lists the backbones that a source publishes alone, with their options in training."""
    return [
        Network(f'imagenet/{backbone}', make_options(f'imagenet/{backbone}', **fields))
        for backbone, variants in source.backbones.items()
        for fields in variants
    ]
