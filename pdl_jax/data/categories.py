"""Categories of annotation files.

The module needs only the standard library, so that commands that read files start at once.
"""

import colorsys
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pdl_jax.data.json_fields import refuse_repeated


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


def parse_categories(json_categories: Any, *, source: str) -> tuple[Category, ...]:
    """Validates the list 'categories' of an annotation file.

    A missing colour is invented: categories converted from other formats often have none.

    Args:
      json_categories: the list.
      source: name of the file, for error messages.

    Raises:
      ValueError: the list is malformed or empty; the message names the source, field and value.
    """
    is_list = isinstance(json_categories, Sequence) and not isinstance(json_categories, str)
    if not is_list or not json_categories:
        raise ValueError(
            f'categories of {source} must be a list with at least one category, '
            f'got {repr(json_categories):.80}'
        )
    categories = tuple(
        _parse_category(values, index, f'categories[{index}] of {source}')
        for index, values in enumerate(json_categories)
    )
    refuse_repeated([c.id for c in categories], f'categories[].id of {source}')
    return categories


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


def _parse_category(values: Any, index: int, where: str) -> Category:
    if not isinstance(values, Mapping):
        raise ValueError(
            f'{where} must be an object with id, name and isthing, got {repr(values):.80}'
        )
    for key in ('id', 'name', 'isthing'):
        if key not in values:
            raise ValueError(f'{where} lacks the field {key!r}: {repr(dict(values)):.200}')
    if not _is_int(values['id']) or values['id'] < 0:
        raise ValueError(f'{where}: id must be an integer >= 0, got {values["id"]!r}')
    if not isinstance(values['name'], str) or not values['name']:
        raise ValueError(f'{where}: name must be a non-empty string, got {values["name"]!r}')
    if not isinstance(values['isthing'], int) or values['isthing'] not in (0, 1):
        raise ValueError(f'{where}: isthing must be 0 or 1, got {values["isthing"]!r}')
    color = values.get('color')
    if color is None:
        color = _invent_color(index)
    if not isinstance(color, Sequence) or len(color) != 3 or not all(map(_is_byte, color)):
        raise ValueError(f'{where}: color must be three integers from 0 to 255, got {color!r}')
    red, green, blue = color
    return Category(values['id'], values['name'], bool(values['isthing']), (red, green, blue))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_byte(value: Any) -> bool:
    return _is_int(value) and 0 <= value <= 255


def _invent_color(index: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep the hues of neighbouring indices apart for any number of them.
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
