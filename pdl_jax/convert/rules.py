"""What becomes of every array in a file: regex rules, and the account of what they did.

A mapping is a table of rules. The first rule whose pattern matches a whole key says where its array goes and how it is turned,
or why it is left out. Nothing is dropped in silence: a key that no rule matches, or that goes where the network has nothing, is
unexpected; a variable of the network that no key goes to is missing.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pdl_jax.typing import PyTree

Transform = Callable[[np.ndarray], np.ndarray]

_GROUP = re.compile(r'\{(\d+)([+-]\d+)?\}')


def keep(x: np.ndarray) -> np.ndarray:
    """The array as it is stored."""
    return x


@dataclasses.dataclass(frozen=True)
class Target:
    """One variable that an array fills.

    Attributes:
      collection: 'params' or 'batch_stats'.
      path: of the variable in the network, e.g. 'backbone/stage{1+1}_block{2+1}/conv{3}/conv/kernel': {n} is what the n-th group
        of the rule's pattern matched, {n+1} that number plus one.
      transform: from the stored array to the variable.
    """

    collection: str
    path: str
    transform: Transform = keep


@dataclasses.dataclass(frozen=True)
class Rule:
    """What becomes of the keys that a pattern matches as a whole.

    Attributes:
      pattern: a regular expression.
      targets: what the array fills; more than one where a stored array stands for several variables.
      reason: why the array is left out, where there are no targets.
    """

    pattern: str
    targets: tuple[Target, ...] = ()
    reason: str = ''


def ignore(pattern: str, reason: str) -> Rule:
    """Leaves keys out."""
    return Rule(pattern, reason=reason)


def under(rules: Iterable[Rule], *, keys: str = '', path: str = '') -> tuple[Rule, ...]:
    """Moves rules below a prefix.

    Args:
      rules: of some module.
      keys: pattern, without groups, in front of all their patterns.
      path: in front of all their paths.
    """

    def move(target):
        return dataclasses.replace(target, path=f'{path}/{target.path}' if path else target.path)

    return tuple(
        dataclasses.replace(
            rule, pattern=keys + rule.pattern, targets=tuple(map(move, rule.targets))
        )
        for rule in rules
    )


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a variable comes from."""

    key: str
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """An array that does not have the shape of its variable.

    Attributes:
      key: of the array.
      path: of the variable.
      stored: shape in the file.
      found: shape as the variable would have it.
      wanted: shape of the variable.
    """

    key: str
    path: str
    stored: tuple[int, ...]
    found: tuple[int, ...]
    wanted: tuple[int, ...]

    def __str__(self):
        found, wanted = list(self.found), list(self.wanted)
        return f'{self.key} has shape {list(self.stored)}, which makes {found} of {self.path} with shape {wanted}'


@dataclasses.dataclass(frozen=True)
class Account:
    """What becomes of every key of a file and where every variable of a network comes from.

    Attributes:
      loaded: by the path of the variable, 'params/...' or 'batch_stats/...'.
      ignored: keys by the reason for leaving them out.
      unexpected: keys, each with what is wrong about it.
      missing: paths of variables.
      mismatched: arrays of another shape than their variable.
    """

    loaded: dict[str, Origin]
    ignored: dict[str, list[str]]
    unexpected: dict[str, str]
    missing: list[str]
    mismatched: list[Mismatch]

    @property
    def num_faults(self) -> int:
        """0 where everything in the file is loaded or ignored and everything in the network comes from it."""
        return len(self.unexpected) + len(self.missing) + len(self.mismatched)


def find_targets(
    rules: Iterable[Rule], keys: Iterable[str]
) -> dict[str, tuple[str, tuple[Target, ...]] | None]:
    """What the rules say about each key: (reason, targets with their paths filled in), None where no rule matches."""
    patterns = [(re.compile(rule.pattern), rule) for rule in rules]

    def find(key):
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
      arrays: by key; anything with a `shape`.
      rules: of the file's source.
      wanted: shapes of the network's variables by 'params/...' or 'batch_stats/...'.
    """
    loaded, unexpected, mismatched = {}, {}, []
    ignored = collections.defaultdict(list)
    for key, found in find_targets(rules, arrays).items():
        if found is None:
            unexpected[key] = 'no rule knows it'
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
            shape = _transformed_shape(target.transform, stored)
            if shape != wanted[path]:
                mismatched.append(Mismatch(key, path, stored, shape, wanted[path]))
    missing = [path for path in wanted if path not in loaded]
    return Account(loaded, dict(ignored), unexpected, missing, mismatched)


def load_variables(account: Account, arrays: Mapping[str, Any]) -> PyTree:
    """Reads what an account says is loaded.

    Args:
      account: without mismatches.
      arrays: that it was made of.

    Returns:
      {'params', 'batch_stats'} of nested dicts of NumPy float32 arrays.

    Raises:
      ValueError: an array holds something else than floating-point numbers.
    """
    tree = {'params': {}, 'batch_stats': {}}
    for path, origin in account.loaded.items():
        value = np.asarray(arrays[origin.key])
        if value.dtype.kind != 'f':
            raise ValueError(f'{origin.key} holds {value.dtype}, not floating-point numbers')
        *parents, name = path.split('/')
        parent = functools.reduce(lambda node, part: node.setdefault(part, {}), parents, tree)
        parent[name] = np.ascontiguousarray(origin.transform(value), np.float32)
    return tree


def _fill(template, match):
    def fill(group):
        text = match[int(group[1])]
        return str(int(text) + int(group[2])) if group[2] else text

    return _GROUP.sub(fill, template)


def _transformed_shape(transform, shape):
    """The shape after a transform, found on an array that takes no memory; that of the file where the transform fails on it."""
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
        f'loaded {len(account.loaded)}, ignored {num_ignored}, unexpected {len(account.unexpected)}, '
        f'missing {len(account.missing)}, of wrong shape {len(account.mismatched)}'
    )
    return '\n'.join(lines)
