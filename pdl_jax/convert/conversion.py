"""Conversion of a file: finding its network, applying the rules, and checking the account."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from pdl_jax.convert.contents import Contents
from pdl_jax.convert.networks import Network
from pdl_jax.convert.rules import (
    Account,
    find_targets,
    load_variables,
    make_account,
    transformed_shape,
)
from pdl_jax.convert.source import Source, list_backbones
from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.presets import PRESETS, make_any_network
from pdl_jax.typing import PyTree

_NOT_ARRAYS = 'other content of a training checkpoint'
_MAX_LINES = 4
_MAX_CLASSES = 10_000


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The comparison of a file with a network.

    Attributes:
      network: the network.
      is_backbone_only: true if the file holds the backbone and nothing after it.
      num_classes: number of classes of the whole network, see `Network.counts_void`; 0 for a
        backbone.
      account: the use of every key and the source of every variable.
    """

    network: Network
    is_backbone_only: bool
    num_classes: int
    account: Account

    @property
    def has_class_queries(self) -> bool:
        """Whether the file has class logits of queries."""
        return bool(self.num_classes) and not self.network.counts_void


def compare(contents: Contents, source: Source, network: Network) -> Conversion:
    """Compares a file with one network, given the file's number of classes; reads no array."""
    rules = source.make_rules(network.options, contents.arrays)
    shapes: dict[str, tuple[int, ...]] = {}
    for key, found in find_targets(rules, contents.arrays).items():
        stored = tuple(contents.arrays[key].shape)
        for target in found[1] if found and stored else ():
            path = f'{target.collection}/{target.path}'
            shapes[path] = transformed_shape(target.transform, stored)
    num_classes = network.count_classes(shapes)
    num_classes = num_classes if 0 < num_classes <= _MAX_CLASSES else 0
    is_backbone_only = network.is_classifier or _are_of_backbone(shapes)
    wanted = _list_shapes(network, 0 if is_backbone_only else max(num_classes, 1))
    account = make_account(contents.arrays, rules, wanted)
    if contents.others:
        account = dataclasses.replace(
            account, ignored={**account.ignored, _NOT_ARRAYS: list(contents.others)}
        )
    return Conversion(network, is_backbone_only, 0 if is_backbone_only else num_classes, account)


def guess_network(contents: Contents, source: Source) -> Conversion:
    """Finds the one network of a source that has the keys and shapes of a file.

    Raises:
      ValueError: no network fits, or several fit, which differ in options that do not change
        shapes, such as the output stride; the message lists the candidates.
    """
    perfect, candidates = find_networks(contents, source)
    if len(perfect) == 1:
        return perfect[0]
    if perfect:
        names = ', '.join(conversion.network.name for conversion in perfect)
        raise ValueError(
            f'the keys and shapes are those of several networks: choose one with --preset: {names}'
        )
    raise ValueError(
        f'the keys and shapes are those of no network of --from={source.name}; closest are '
        f'{", ".join(candidates)}: choose one with --preset to see what differs, or choose another '
        f'--from'
    )


def find_networks(contents: Contents, source: Source) -> tuple[list[Conversion], list[str]]:
    """Compares a file with all networks of a source.

    Returns:
      The networks that fit without a fault, and the names of the closest ones.
    """
    wholes = [Network(name, make_any_network(name)) for name in source.presets]
    backbones = list_backbones(source)
    candidates, perfect = [], []
    for networks, is_backbone_only in ((wholes, False), (backbones, True)):
        for network in networks:
            # Match keys first: that rules out most networks and is cheaper than tracing one.
            rules = source.make_rules(network.options, contents.arrays)
            found = find_targets(rules, contents.arrays).values()
            if any(use is None for use in found):
                continue
            candidates.append(network.name)
            paths = [f'{t.collection}/{t.path}' for use in found if use for t in use[1]]
            if not is_backbone_only and _are_of_backbone(paths):
                continue
            conversion = compare(contents, source, network)
            if (
                not conversion.account.num_faults
                and conversion.is_backbone_only == is_backbone_only
            ):
                perfect.append(conversion)
        if perfect:
            break
    names = {network.name for network in (*wholes, *backbones)}
    return perfect, sorted(set(candidates) or names)


def choose_network(
    contents: Contents, source: Source, preset: str, options: AnyNetworkOptions | None = None
) -> Conversion:
    """Compares a file with the network of a preset.

    Args:
      contents: contents of the file.
      source: the program that published it.
      preset: one of `PRESETS`; for a backbone that the source publishes in several widths, the
        closest width is chosen.
      options: the network's options, to replace those of the preset.

    Raises:
      ValueError: there is no such preset.
    """
    if options is None and preset not in PRESETS:
        raise ValueError(
            f'--preset={preset} is unknown; choose one of {", ".join(sorted(PRESETS))}'
        )
    networks = (
        [Network(preset, options)]
        if options
        else [n for n in list_backbones(source) if n.name == preset]
    )
    networks = networks or [Network(preset, make_any_network(preset))]
    conversions = [compare(contents, source, network) for network in networks]
    return min(conversions, key=lambda conversion: conversion.account.num_faults)


def check_account(
    conversion: Conversion, *, allow_unexpected: bool = False, allow_missing: bool = False
) -> None:
    """Checks that a file fits a network.

    Args:
      conversion: the comparison of the two.
      allow_unexpected: accept keys that the network does not have.
      allow_missing: accept variables that the file does not have.

    Raises:
      ValueError: shapes differ, or keys are unexpected or variables missing and not allowed to be.
    """
    account = conversion.account
    network = f'the network of {conversion.network.name}'
    remedy = 'Choose another --preset or --from'
    if account.mismatched:
        lines = [str(mismatch) for mismatch in account.mismatched]
        raise ValueError(
            f'{len(lines)} arrays do not have the shapes of {network}: {_join(lines)}. {remedy}; '
            f'a network of other widths needs a --config with these widths'
        )
    if account.unexpected and not allow_unexpected:
        lines = [f'{key} ({why})' for key, why in account.unexpected.items()]
        raise ValueError(
            f'{len(lines)} keys are unexpected: {_join(lines)}. {remedy}, or leave them out with '
            f'--allow_unexpected'
        )
    if account.missing and not allow_missing:
        raise ValueError(
            f'{len(account.missing)} variables of {network} are missing in the file: '
            f'{_join(account.missing)}. {remedy}, or convert the rest with --allow_missing: '
            f'training initialises these at random'
        )


def load(conversion: Conversion, contents: Contents) -> PyTree:
    """Reads the variables.

    Returns:
      {'params', 'batch_stats'} of nested dicts of NumPy float32 arrays.

    Raises:
      ValueError: an array does not hold floating-point numbers, or no array is to be loaded.
    """
    if not conversion.account.loaded:
        raise ValueError('no array of the file is a variable of the network')
    return load_variables(conversion.account, contents.arrays)


def has_folded_norm(variables: PyTree) -> bool:
    """Returns true if every BatchNorm only adds a bias, the rest being folded into the kernels."""
    statistics = flatten_dict(variables['batch_stats'])
    scales = [
        value for path, value in flatten_dict(variables['params']).items() if path[-1] == 'scale'
    ]
    means = [value for path, value in statistics.items() if path[-1] == 'mean']
    return (
        bool(means)
        and all(np.all(mean == 0) for mean in means)
        and all(np.all(scale == 1) for scale in scales)
    )


@functools.lru_cache
def _list_shapes(network: Network, num_classes: int) -> Mapping[str, tuple[int, ...]]:
    """Lists the shapes of a network's variables by path; of its backbone for 0 classes."""
    model = network.make_module(num_classes)
    variables = eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3)), train=False)
    )
    leaves: dict[str, Any] = flatten_dict(variables, sep='/')
    shapes = {}
    for path, value in leaves.items():
        collection, name = path.split('/', 1)
        shapes[path if num_classes else f'{collection}/backbone/{name}'] = tuple(value.shape)
    return shapes


def _are_of_backbone(paths: Iterable[str]) -> bool:
    return all(path.partition('/')[2].startswith('backbone/') for path in paths)


def _join(lines: Sequence[str]) -> str:
    shown = '; '.join(lines[:_MAX_LINES])
    return shown if len(lines) <= _MAX_LINES else f'{shown}; and {len(lines) - _MAX_LINES} more'
