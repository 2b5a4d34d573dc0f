"""From a file to the variables of a network: finds the network, applies the rules, checks that nothing is left over."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from pdl_jax.convert.readers import Contents
from pdl_jax.convert.rules import Account, find_targets, load_variables, make_account
from pdl_jax.convert.source import Network, Source, list_backbones
from pdl_jax.models.deeplab import DeepLab, make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import PRESETS, make_options
from pdl_jax.typing import PyTree

# The variables whose last dimension is the number of classes.
_LOGITS = ('params/semantic_head/predict/kernel', 'params/semantic_decoder/predict_last/kernel')
_NOT_ARRAYS = 'not an array: what the training program keeps beside the network'
_MAX_LINES = 4


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A file as variables of a network.

    Attributes:
      network: that the file is of.
      is_backbone_only: whether it holds the backbone and nothing behind it.
      num_classes: logits of the whole network; 0 of a backbone.
      account: of every key and every variable.
    """

    network: Network
    is_backbone_only: bool
    num_classes: int
    account: Account


def compare(contents: Contents, source: Source, network: Network) -> Conversion:
    """Says what becomes of a file as the variables of one network; reads no array.

    The number of classes is that of the file.
    """
    rules = source.make_rules(network.options, contents.arrays)
    paths, num_classes = set(), 0
    for key, found in find_targets(rules, contents.arrays).items():
        for target in found[1] if found else ():
            path = f'{target.collection}/{target.path}'
            paths.add(target.path)
            if path in _LOGITS:
                stored = np.broadcast_to(np.float32(0), contents.arrays[key].shape)
                num_classes = target.transform(stored).shape[-1] if stored.ndim == 4 else 0
    is_backbone_only = network.options.decoder == 'classifier' or all(
        path.startswith('backbone/') for path in paths
    )
    wanted = _list_shapes(network.options, 0 if is_backbone_only else max(num_classes, 1))
    account = make_account(contents.arrays, rules, wanted)
    if contents.others:
        account = dataclasses.replace(
            account, ignored={**account.ignored, _NOT_ARRAYS: list(contents.others)}
        )
    return Conversion(network, is_backbone_only, 0 if is_backbone_only else num_classes, account)


def guess_network(contents: Contents, source: Source) -> Conversion:
    """Finds the one network of a source whose keys and shapes are those of a file.

    Raises:
      ValueError: none is, or several are, which differ in what shapes do not show, such as the output stride; the message lists
        the candidates.
    """
    wholes = [Network(name, make_options(name)) for name in source.presets]
    backbones = list_backbones(source)
    candidates, perfect = [], []
    for networks, is_backbone_only in ((wholes, False), (backbones, True)):
        for network in networks:
            # Regular expressions tell most apart, and they are cheaper than tracing a network.
            rules = source.make_rules(network.options, contents.arrays)
            if any(found is None for found in find_targets(rules, contents.arrays).values()):
                continue
            candidates.append(network.name)
            conversion = compare(contents, source, network)
            if (
                not conversion.account.num_faults
                and conversion.is_backbone_only == is_backbone_only
            ):
                perfect.append(conversion)
        if perfect:
            break
    if len(perfect) == 1:
        return perfect[0]
    if perfect:
        names = ', '.join(conversion.network.name for conversion in perfect)
        raise ValueError(
            f'the keys and shapes are those of several networks: say --preset= one of {names}'
        )
    names = sorted(set(candidates) or {network.name for network in (*wholes, *backbones)})
    raise ValueError(
        f'the keys and shapes are those of no network of --from={source.name}; closest are {", ".join(names)}: say which with '
        f'--preset to see what differs, or choose another --from'
    )


def choose_network(
    contents: Contents, source: Source, preset: str, options: ModelOptions | None = None
) -> Conversion:
    """Takes a file for the network of a preset.

    Args:
      contents: of the file.
      source: that it comes from.
      preset: any of `PRESETS`; of a backbone that the source publishes in several widths the closest is taken.
      options: in the place of the preset's.

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
    networks = networks or [Network(preset, make_options(preset))]
    conversions = [compare(contents, source, network) for network in networks]
    return min(conversions, key=lambda conversion: conversion.account.num_faults)


def check_account(
    conversion: Conversion, *, allow_unexpected: bool = False, allow_missing: bool = False
) -> None:
    """Checks that a file and a network are the same.

    Raises:
      ValueError: shapes disagree; or keys are unexpected or variables missing, and that is not allowed.
    """
    account = conversion.account
    network = f'the network of {conversion.network.name}'
    remedy = 'Choose another --preset or --from'
    if account.mismatched:
        lines = [str(mismatch) for mismatch in account.mismatched]
        raise ValueError(
            f'{len(lines)} arrays do not have the shapes of {network}: {_join(lines)}. {remedy}; networks of other widths need a '
            f'--config whose model says so'
        )
    if account.unexpected and not allow_unexpected:
        lines = [f'{key} ({why})' for key, why in account.unexpected.items()]
        raise ValueError(
            f'{len(lines)} keys are unexpected: {_join(lines)}. {remedy}, or leave them out with --allow_unexpected'
        )
    if account.missing and not allow_missing:
        raise ValueError(
            f'{len(account.missing)} variables of {network} are missing in the file: {_join(account.missing)}. '
            f'{remedy}, or go on without them with --allow_missing, for training to draw'
        )


def load(conversion: Conversion, contents: Contents) -> PyTree:
    """Reads the variables: {'params', 'batch_stats'} of NumPy float32 arrays.

    Raises:
      ValueError: an array holds something else than floating-point numbers, or nothing is to be loaded.
    """
    if not conversion.account.loaded:
        raise ValueError('nothing in the file is a variable of the network')
    return load_variables(conversion.account, contents.arrays)


def has_folded_norm(variables: PyTree) -> bool:
    """Whether every BatchNorm only adds a bias: its statistics were folded into the kernel before it."""
    statistics = flatten_dict(variables['batch_stats'])
    scales = [
        value for path, value in flatten_dict(variables['params']).items() if path[-1] == 'scale'
    ]
    means = [value for path, value in statistics.items() if path[-1] == 'mean']
    return (
        bool(means)
        and all((mean == 0).all() for mean in means)
        and all((scale == 1).all() for scale in scales)
    )


@functools.lru_cache
def _list_shapes(options: ModelOptions, num_classes: int) -> Mapping[str, tuple[int, ...]]:
    """The shapes of a network's variables by path; of its backbone alone where there are no classes."""
    model = DeepLab(num_classes, options) if num_classes else make_model_backbone(options)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3)), train=False)
    )
    shapes = {}
    for path, value in flatten_dict(variables, sep='/').items():
        collection, name = path.split('/', 1)
        shapes[path if num_classes else f'{collection}/backbone/{name}'] = tuple(value.shape)
    return shapes


def _join(lines: Sequence[Any]) -> str:
    shown = '; '.join(lines[:_MAX_LINES])
    return shown if len(lines) <= _MAX_LINES else f'{shown}; and {len(lines) - _MAX_LINES} more'
