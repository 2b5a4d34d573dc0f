"""Categories of annotation files.

The module needs only the standard library, so that commands that read files start at once.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pdl_jax.data.json_fields import (
    get_field,
    get_flag,
    get_integer,
    has_value,
    refuse_repeated,
    to_integer,
)
from pdl_jax.data.notices import Notices
from pdl_jax.data.palette import choose_colors
from pdl_jax.storage.json_files import describe_value

# Far above any data set: 24 bits hold the labels of 16,384 classes with 1,000 objects each.
MAX_CATEGORIES = 2**14
_MAX_ID = 2**31 - 1
_MAX_NAME = 200


@dataclasses.dataclass(frozen=True)
class Category:
    """One category of an annotation file.

    Attributes:
      id: id in the annotation file (COCO: 1 to 200 with gaps).
      name: name of the category.
      is_thing: whether objects of the category are told apart.
      color: (r, g, b), 0..255, for pictures.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


def parse_categories(
    json_categories: Any,
    *,
    source: str,
    notices: Notices | None = None,
    guess_things: Callable[[], set[int]] | None = None,
) -> tuple[Category, ...]:
    """Validates the list 'categories' of an annotation file.

    A missing colour is invented: categories converted from other formats often have none. Equal
    names get their ids behind them, since reports tell classes apart by name.

    Args:
      json_categories: the list.
      source: name of the file, for error messages.
      notices: collection of remarks about what was derived or repaired.
      guess_things: function that returns the ids of the categories that must be things, called
        where no category says; None: the field isthing is required.

    Raises:
      ValueError: the list is malformed or empty; the message names the source, field and value.
    """
    notices = Notices() if notices is None else notices
    if not isinstance(json_categories, list | tuple) or not json_categories:
        raise ValueError(
            f'categories of {source} must be a list with at least one category, '
            f'got {describe_value(json_categories)}'
        )
    if len(json_categories) > MAX_CATEGORIES:
        raise ValueError(
            f'categories of {source} lists {len(json_categories)} categories, more than '
            f'{MAX_CATEGORIES}: leave out what is not used'
        )
    places = [f'categories[{index}] of {source}' for index in range(len(json_categories))]
    for values, where in zip(json_categories, places, strict=True):
        if not isinstance(values, Mapping):
            raise ValueError(
                f'{where} must be an object with id, name and isthing, got {describe_value(values)}'
            )
    ids = [
        get_integer(values, 'id', where, low=0, high=_MAX_ID, notices=notices)
        for values, where in zip(json_categories, places, strict=True)
    ]
    refuse_repeated(ids, f'categories[].id of {source}')
    names = [_parse_name(v, where) for v, where in zip(json_categories, places, strict=True)]
    names = _make_unique(names, ids, source, notices)
    things = _parse_things(json_categories, ids, names, places, notices, guess_things)
    given = [_parse_color(v, where) for v, where in zip(json_categories, places, strict=True)]
    taken = tuple(dict.fromkeys(color for color in given if color is not None))
    chosen = iter(choose_colors(given.count(None), taken))
    colors = [next(chosen) if color is None else color for color in given]
    return tuple(map(Category, ids, names, things, colors))


def read_table(table: str, *, is_thing: bool) -> tuple[Category, ...]:
    """Parses a table of entries `id name rrggbb`, separated by semicolons."""
    categories = []
    for entry in table.strip().replace('\n', ' ').split(';'):
        number, *words, color = entry.split()
        categories.append(Category(int(number), ' '.join(words), is_thing, parse_color(color)))
    return tuple(categories)


def parse_color(text: str) -> tuple[int, int, int]:
    """Returns (r, g, b) of a colour 'rrggbb'."""
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def _parse_name(values: Mapping[str, Any], where: str) -> str:
    name = get_field(values, 'name', (str, int), where)
    text = str(name).strip() if isinstance(name, str) or abs(name) < 10**18 else ''
    if not text:
        raise ValueError(f'{where}: name must be a non-empty string, got {describe_value(name)}')
    if len(text) > _MAX_NAME or any('\ud800' <= c <= '\udfff' for c in text):
        raise ValueError(
            f'{where}: name must be text of at most {_MAX_NAME} letters, got {describe_value(name)}'
        )
    return text


def _make_unique(
    names: Sequence[str], ids: Sequence[int], source: str, notices: Notices
) -> list[str]:
    counts = collections.Counter(names)
    repeated = next((name for name in names if counts[name] > 1), None)
    if repeated is None:
        return list(names)
    shared = [i for i, name in zip(ids, names, strict=True) if name == repeated]
    text = (
        'categories share a name and are kept apart, with their ids in their names; give them one '
        'id to join them'
    )
    num_shared = sum(count for count in counts.values() if count > 1)
    notices.add(text, f'{repeated!r} has the ids {shared[:5]} in {source}', num_shared)
    unique = [
        f'{name} ({i})' if counts[name] > 1 else name for i, name in zip(ids, names, strict=True)
    ]
    refuse_repeated(unique, f'categories[].name of {source}')
    return unique


def _parse_things(
    json_categories: Sequence[Mapping[str, Any]],
    ids: Sequence[int],
    names: Sequence[str],
    places: Sequence[str],
    notices: Notices,
    guess_things: Callable[[], set[int]] | None,
) -> list[bool]:
    is_given = [
        has_value(values, 'isthing', where)
        for values, where in zip(json_categories, places, strict=True)
    ]
    if guess_things is None or any(is_given):
        lacking = next((i for i, given in enumerate(is_given) if not given), None)
        if lacking is not None:
            raise ValueError(
                f"{places[lacking]} lacks the field 'isthing': give 1 where objects of the "
                f'category are told apart, else 0'
            )
        return [
            get_flag(values, 'isthing', where, notices=notices)
            for values, where in zip(json_categories, places, strict=True)
        ]
    guessed = guess_things()
    things = [i in guessed for i in ids]
    listed = {k: [n for n, t in zip(names, things, strict=True) if t == k] for k in (False, True)}
    text = (
        'categories lack isthing: those with several segments in an image, or with a crowd, are '
        'taken for things; add isthing to the JSON to choose'
    )
    example = f'things: {_list_some(listed[True])}; stuff: {_list_some(listed[False])}'
    notices.add(text, example, len(ids))
    return things


def _list_some(names: Sequence[str]) -> str:
    return ', '.join(names[:4]) + ', ...' * (len(names) > 4) if names else 'none'


def _parse_color(values: Mapping[str, Any], where: str) -> tuple[int, int, int] | None:
    if not has_value(values, 'color', where):
        return None
    color = values['color']
    if isinstance(color, str):
        digits = color.strip().removeprefix('#').removeprefix('0x')
        if len(digits) == 3:
            digits = ''.join(2 * digit for digit in digits)
        try:
            return parse_color(digits)
        except ValueError:
            channels = [None]
    else:
        channels = [to_integer(c) for c in color] if isinstance(color, list | tuple) else [None]
    if len(channels) != 3 or any(c is None or not 0 <= c <= 255 for c in channels):
        raise ValueError(
            f'{where}: color must be three integers from 0 to 255 or "#rrggbb", got '
            f'{describe_value(color)}'
        )
    red, green, blue = (c or 0 for c in channels)
    return red, green, blue
