r"""Regex rules that map the arrays of a file to variables, and the account of their effect.

A mapping is a table of rules. The first rule whose pattern matches a whole key defines where its
array goes and how it is transformed, or why it is left out. Nothing is dropped silently: a key is
unexpected if no rule matches it or the network lacks its variable; a variable is missing if no key
goes to it.

For example, 'layer1.0.bn1.weight' goes to 'params/stage2_block1/norm1/scale' by

    Rule(
        r'layer(\d)\.(\d+)\.bn1\.weight',
        (Target('params', 'stage{1+1}_block{2+1}/norm1/scale'),),
    )
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pdl_jax.typing import PyTree

Transform = Callable[[np.ndarray], np.ndarray]

# More than any variable of a network has; untrusted files state larger shapes.
_MAX_ELEMENTS = 2**27
_GROUP = re.compile(r'\{(\d+)([+-]\d+)?\}')


def keep(x: np.ndarray) -> np.ndarray:
    """Returns the array unchanged."""
    return x


@dataclasses.dataclass(frozen=True)
class Target:
    """One variable that an array fills.

    Attributes:
      collection: 'params' or 'batch_stats'.
      path: path of the variable in the network, e.g.
        'backbone/stage{1+1}_block{2+1}/conv{3}/conv/kernel', where {n} stands for the n-th group of
        the rule's pattern and {n+1} for that number plus one.
      transform: function from the stored array to the variable.
    """

    collection: str
    path: str
    transform: Transform = keep


@dataclasses.dataclass(frozen=True)
class Rule:
    """The use of arrays whose keys match a pattern.

    Attributes:
      pattern: regular expression that has to match the whole key.
      targets: the variables that the array fills; several if it stands for several.
      reason: the reason for leaving the array out, if there are no targets.
    """

    pattern: str
    targets: tuple[Target, ...] = ()
    reason: str = ''


def ignore(pattern: str, reason: str) -> Rule:
    """Makes a rule that leaves keys out."""
    return Rule(pattern, reason=reason)


def under(rules: Iterable[Rule], *, keys: str = '', path: str = '') -> tuple[Rule, ...]:
    """Prefixes the patterns and paths of rules.

    Args:
      rules: the rules of a module.
      keys: regex without capturing groups to put before all patterns.
      path: path to put before all target paths.
    """

    def move(target: Target) -> Target:
        return dataclasses.replace(target, path=f'{path}/{target.path}' if path else target.path)

    return tuple(
        dataclasses.replace(
            rule, pattern=keys + rule.pattern, targets=tuple(map(move, rule.targets))
        )
        for rule in rules
    )


@dataclasses.dataclass(frozen=True)
class Origin:
    """The array that fills a variable, and its transform."""

    key: str
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """An array whose shape is not that of its variable.

    Attributes:
      key: key of the array.
      path: path of the variable.
      stored: shape of the array in the file.
      found: shape of the array after its transform.
      wanted: shape of the variable.
    """

    key: str
    path: str
    stored: tuple[int, ...]
    found: tuple[int, ...]
    wanted: tuple[int, ...]

    def __str__(self) -> str:
        found, wanted = list(self.found), list(self.wanted)
        return (
            f'{self.key} has shape {list(self.stored)}, which becomes {found} for {self.path} of '
            f'shape {wanted}'
        )


@dataclasses.dataclass(frozen=True)
class Account:
    """The use of every key of a file and the source of every variable of a network.

    Attributes:
      loaded: sources by the path of the variable, 'params/...' or 'batch_stats/...'.
      ignored: keys by the reason for leaving them out.
      unexpected: faults by key.
      missing: paths of variables without an array.
      mismatched: arrays whose shape is not that of their variable.
    """

    loaded: dict[str, Origin]
    ignored: dict[str, list[str]]
    unexpected: dict[str, str]
    missing: list[str]
    mismatched: list[Mismatch]

    @property
    def num_faults(self) -> int:
        """Number of faults; 0 if the file fits the network."""
        return len(self.unexpected) + len(self.missing) + len(self.mismatched)


def find_targets(
    rules: Iterable[Rule], keys: Iterable[str]
) -> dict[str, tuple[str, tuple[Target, ...]] | None]:
    """Applies the rules to keys.

    Returns:
      (reason, targets with their paths filled in) by key; None for a key that no rule matches.
    """
    patterns = [(re.compile(rule.pattern), rule) for rule in rules]

    def find(key: str) -> tuple[str, tuple[Target, ...]] | None:
        for pattern, rule in patterns:
            if match := pattern.fullmatch(key):
                return rule.reason, tuple(
                    dataclasses.replace(target, path=_fill(target.path, match))
                    for target in rule.targets
                )
        return None

    return {key: find(key) for key in keys}


def make_account(
    arrays: Mapping[str, Any], rules: Iterable[Rule], wanted: Mapping[str, tuple[int, ...]]
) -> Account:
    """Compares a file with a network; reads no array.

    Args:
      arrays: anything with a `shape`, by key.
      rules: rules of the file's source.
      wanted: shapes of the network's variables by path, 'params/...' or 'batch_stats/...'.
    """
    loaded: dict[str, Origin] = {}
    unexpected: dict[str, str] = {}
    mismatched: list[Mismatch] = []
    ignored: collections.defaultdict[str, list[str]] = collections.defaultdict(list)
    for key, found in find_targets(rules, arrays).items():
        if found is None:
            unexpected[key] = 'no rule matches it'
            continue
        reason, targets = found
        if not targets:
            ignored[reason].append(key)
        for target in targets:
            path = f'{target.collection}/{target.path}'
            if path not in wanted:
                unexpected[key] = f'the network has no {path}'
                continue
            if path in loaded:
                unexpected[key] = f'{loaded[path].key} is {path} already'
                continue
            loaded[path] = Origin(key, target.transform)
            stored = tuple(arrays[key].shape)
            shape = transformed_shape(target.transform, stored)
            if shape != wanted[path]:
                mismatched.append(Mismatch(key, path, stored, shape, wanted[path]))
    missing = [path for path in wanted if path not in loaded]
    return Account(loaded, dict(ignored), unexpected, missing, mismatched)


def load_variables(account: Account, arrays: Mapping[str, Any]) -> PyTree:
    """Reads the loaded variables of an account.

    Args:
      account: an account without mismatches.
      arrays: the arrays that it was made from.

    Returns:
      {'params', 'batch_stats'} of nested dicts of NumPy float32 arrays.

    Raises:
      ValueError: an array does not hold floating-point numbers.
    """
    tree: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for path, origin in account.loaded.items():
        value = np.asarray(arrays[origin.key])
        if value.dtype.kind != 'f':
            raise ValueError(f'{origin.key} holds {value.dtype}, not floating-point numbers')
        *parents, name = path.split('/')
        parent = functools.reduce(lambda node, part: node.setdefault(part, {}), parents, tree)
        parent[name] = np.array(origin.transform(value), np.float32, order='C')
    return tree


def _fill(template: str, match: re.Match[str]) -> str:
    def fill(group: re.Match[str]) -> str:
        text = match[int(group[1])]
        return str(int(text) + int(group[2])) if group[2] else text

    return _GROUP.sub(fill, template)


def transformed_shape(transform: Transform, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape after a transform, or the stored shape if the transform rejects it."""
    if math.prod(shape) > _MAX_ELEMENTS:
        return shape
    # A broadcast scalar takes no memory, but some transforms copy it.
    try:
        return tuple(transform(np.broadcast_to(np.float32(0), shape)).shape)
    except (IndexError, ValueError):
        return shape


def format_account(account: Account) -> str:
    """Words all lists of an account, then their lengths."""
    num_ignored = sum(map(len, account.ignored.values()))
    lines = [f'loaded: {origin.key} -> {path}' for path, origin in account.loaded.items()]
    lines += [
        f'ignored: {key} ({reason})' for reason, keys in account.ignored.items() for key in keys
    ]
    lines += [f'unexpected: {key} ({why})' for key, why in account.unexpected.items()]
    lines += [f'missing: {path}' for path in account.missing]
    lines += [f'wrong shape: {mismatch}' for mismatch in account.mismatched]
    lines += [f'ignored {len(keys)}: {reason}' for reason, keys in account.ignored.items()]
    lines.append(
        f'loaded {len(account.loaded)}, ignored {num_ignored}, unexpected '
        f'{len(account.unexpected)}, missing {len(account.missing)}, of wrong shape '
        f'{len(account.mismatched)}'
    )
    return '\n'.join(lines)
