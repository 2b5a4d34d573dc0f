"""The weights in a training checkpoint: the right dict of arrays, under the network's own keys.

Training programs keep the weights beside other things, often twice (averaged over steps), and wrap
networks in modules that put prefixes before every key.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

CHOICES = ('model', 'ema')
# The usual names of the weights, the likelier first; ties between dicts are decided by them.
_USUAL = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'module')
_AVERAGED = re.compile(r'(^|_)(ema|shadow|shadow_params|swa|averaged?|polyak)(_|$)', re.IGNORECASE)
# Dicts with arrays that are no weights.
_UNRELATED = re.compile(r'optimi[sz]er|^optim|sched|scaler|callback|hyper|metric', re.IGNORECASE)
_MAX_DEPTH = 3
_MAX_SEEN = 200_000
# Modules that other modules are wrapped in, at any place of a key.
_WRAPPERS = frozenset(
    {'module', '_orig_mod', '_forward_module', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}
)
# Attributes that hold the network in a training module, at the beginning of keys.
_HOLDERS = ('model', 'net', 'network')
_SPLIT_AVERAGES = ('ema', 'model_ema', 'ema_model')
_MAX_PREFIXES = 8


class MissingWeightsError(ValueError):
    """An error about weights that were asked for and are not there."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """One set of weights in a file.

    Attributes:
      path: names of the dicts around it.
      values: everything in the dict, by key.
      around: those dicts, the outermost first.
      rest: the averages in the dict itself.
      num_arrays: number of arrays in the dict.
    """

    path: tuple[str, ...]
    values: dict[Any, Any]
    around: tuple[dict[Any, Any], ...]
    rest: tuple[str, ...]
    num_arrays: int

    @property
    def beside(self) -> tuple[str, ...]:
        """The names of entries beside the dicts of `path`."""
        names = [
            other
            for values, name in zip(self.around, self.path, strict=False)
            for other in values
            if isinstance(other, str) and other != name
        ]
        return (*names, *self.rest)

    @property
    def name(self) -> str:
        """The place in the file."""
        return repr('/'.join(self.path)) if self.path else 'the file itself'

    @property
    def is_averaged(self) -> bool:
        """Whether they are an average over training steps, by their name."""
        return any(_AVERAGED.search(part) for part in self.path)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The more arrays and the more usual the name, the lower."""
        last = self.path[-1] if self.path else ''
        usual = _USUAL.index(last) if last in _USUAL else len(_USUAL)
        return -self.num_arrays, usual, len(self.path)


def choose_weights(
    content: Any, kinds: tuple[type, ...], choice: str
) -> tuple[Weights, tuple[str, ...]] | None:
    """Finds the dict of arrays in a checkpoint.

    Args:
      content: what the file holds.
      kinds: types of arrays.
      choice: 'model' or 'ema' (weights averaged over steps); '' takes the model's if there are
        both.

    Returns:
      The weights, and sentences about the choice; None if no dict holds arrays by name.

    Raises:
      MissingWeightsError: the file does not have the weights that `choice` names.
    """
    found = sorted(_list_weights(content, kinds), key=lambda weights: weights.rank)
    if not found:
        return None
    # A few arrays beside the weights, such as the best accuracy, are none.
    found = [weights for weights in found if 4 * weights.num_arrays >= found[0].num_arrays]
    plain = [weights for weights in found if not weights.is_averaged]
    averaged = [weights for weights in found if weights.is_averaged]
    eligible = {'': plain or averaged, 'model': plain, 'ema': averaged}[choice]
    if not eligible:
        names = ', '.join(weights.name for weights in found)
        raise MissingWeightsError(f'--weights={choice}: the only weights are those in {names}')
    chosen, *rest = eligible
    rest = [weights for weights in rest if weights.path != chosen.path[: len(weights.path)]]
    notes = []
    if rest or averaged:
        kind = ', averaged over training steps' if chosen.is_averaged else ''
        notes.append(f'takes the weights in {chosen.name}{kind}')
    if averaged and plain:
        other, flag = (plain, 'model') if chosen.is_averaged else (averaged, 'ema')
        notes.append(f'--weights={flag} takes those in {other[0].name}')
    if rest:
        notes.append(f'leaves those in {", ".join(weights.name for weights in rest)}')
    return chosen, tuple(notes)


def clean_keys(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Takes the prefixes of wrapping modules from keys.

    Returns:
      The arrays, the keys that were left out, and the prefixes, '' if there was none.
    """
    left, others, removed = dict(arrays), [], []
    for _ in range(_MAX_PREFIXES):
        left, part = _strip_once(left)
        if not part:
            break
        removed.append(part)
    if removed:
        # The counters of averages lie outside of the wrapping module.
        others = [key for key in left if key in arrays and '.' not in key and not left[key].shape]
        left = {key: value for key, value in left.items() if key not in others}
    return left, tuple(others), ' '.join(dict.fromkeys(removed))


def _strip_once(arrays: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Takes one prefix from the keys; returns them and the prefix, '' if there is none."""

    def rename(key: str) -> str:
        return '.'.join(part for part in key.split('.') if part not in _WRAPPERS)

    found = sorted({part for key in arrays for part in key.split('.') if part in _WRAPPERS})
    renamed = {rename(key): value for key, value in arrays.items()}
    if found and len(renamed) == len(arrays):
        return renamed, ' '.join(f'{part}.' for part in found)
    for holder in _HOLDERS:
        prefix = f'{holder}.'
        count = sum(key.startswith(prefix) for key in arrays)
        renamed = {key.removeprefix(prefix): value for key, value in arrays.items()}
        # Losses and metrics of a training module lie beside the network.
        if 2 * count > len(arrays) and len(renamed) == len(arrays):
            return renamed, prefix
    return arrays, ''


def _list_weights(content: Any, kinds: tuple[type, ...]) -> Iterator[Weights]:
    """Lists the dicts that hold arrays by name."""
    num_seen = 0
    waiting: collections.deque[tuple[tuple[str, ...], Any, tuple[dict[Any, Any], ...]]]
    waiting = collections.deque([((), content, ())])
    while waiting:
        path, values, around = waiting.popleft()
        # Dicts may hold each other, so that the ways to them are without number.
        num_seen += len(values) if isinstance(values, dict) else 0
        if not isinstance(values, dict) or num_seen > _MAX_SEEN:
            continue
        yield from _split_averages(path, values, around, kinds)
        if len(path) < _MAX_DEPTH:
            waiting += [
                ((*path, name), inner, (*around, values))
                for name, inner in values.items()
                if isinstance(name, str) and isinstance(inner, dict) and not _UNRELATED.search(name)
            ]


def _split_averages(
    path: tuple[str, ...],
    values: dict[Any, Any],
    around: tuple[dict[Any, Any], ...],
    kinds: tuple[type, ...],
) -> Iterator[Weights]:
    """Separates weights of one dict that keys tell apart: 'model.' and 'model_ema.'."""
    groups: dict[str, dict[Any, Any]] = {'': {}}
    for key, value in values.items():
        prefix = key.partition('.')[0] if isinstance(key, str) else ''
        prefix = prefix if prefix in _SPLIT_AVERAGES else ''
        groups.setdefault(prefix, {})[key[len(prefix) + 1 :] if prefix else key] = value
    for prefix, group in groups.items():
        count = sum(isinstance(k, str) and isinstance(v, kinds) for k, v in group.items())
        rest = tuple(f'{other}.*' for other in groups if other and other != prefix)
        if count:
            yield Weights((*path, prefix) if prefix else path, group, around, rest, count)
