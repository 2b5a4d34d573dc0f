"""Lists of classes in the files that annotation tools write, and specs made from them."""

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from pdl_jax import typing
from pdl_jax.data import catalog
from pdl_jax.data.categories import parse_color
from pdl_jax.data.json_fields import to_integer
from pdl_jax.data.text_files import read_json, read_text
from pdl_jax.storage.json_files import describe_value

# The value of --background that adds no class.
NO_BACKGROUND = 'void'
DEFAULT_BACKGROUND = 'background'
# LabelMe's names of the two.
LABELME_BACKGROUND, LABELME_VOID = '_background_', '__ignore__'

_REMEDY = (
    'give a text file with one name per line, a .json list of classes, a .csv with name,r,g,b, '
    "CVAT's labelmap.txt, Supervisely's meta.json or YOLO's data.yaml"
)
# `name:r,g,b:parts:actions`, of which CVAT writes the first two.
_LABELMAP_LINE = re.compile(r'\s*([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3})(:.*)?')
_MAX_YAML_BYTES = 2**20
_BACKGROUND_COLOR = (128, 128, 128)


class ClassList(NamedTuple):
    """Classes of a file.

    Attributes:
      categories: objects with 'id' and 'name', some with 'color' and 'isthing', not yet checked.
      is_color_table: whether the file is a table of colours: the classes have no ids of their own.
    """

    categories: tuple[Any, ...]
    is_color_table: bool = False


class ObjectSpec(NamedTuple):
    """Classes of a data set of objects.

    Attributes:
      spec: classes and label format.
      base: panoptic label of pixels without an object: background, or void.
    """

    spec: catalog.DatasetSpec
    base: int


def read_class_list(path: epath.Path) -> ClassList:
    """Reads a list of classes.

    Args:
      path: .json: a list of names or of {"id", "name", "color", "isthing"}, of which only the name
        is needed where all ids are left out, {"0": name, ...}, or Supervisely's meta.json;
        .yaml: YOLO's `names`; .csv: name,r,g,b or Roboflow's pixel value,class; else lines
        `name:r,g,b::` (CVAT's labelmap.txt), or one name per line.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is malformed.
    """
    suffix = path.suffix.lower()
    if suffix == '.json':
        return _from_json(read_json(path, remedy=_REMEDY), path.name)
    text = read_text(path, remedy=_REMEDY)
    if suffix in ('.yaml', '.yml'):
        return _from_names(read_yaml(text, path.name).get('names'), f'names of {path.name}')
    if suffix == '.csv':
        return _from_csv(text, path.name)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    content = [line for line in lines if line and not line.startswith('#')]
    if content and _LABELMAP_LINE.fullmatch(content[0]):
        return _from_labelmap(content, path.name)
    if lines and lines[0] == LABELME_VOID:
        lines = lines[1:]
    return _from_names(lines, path.name)


def read_yaml(text: str, source: str) -> Mapping[str, Any]:
    """Parses a small YAML file that holds a mapping.

    Raises:
      ValueError: the text is no such file.
    """
    import yaml

    if len(text) > _MAX_YAML_BYTES:
        raise ValueError(f'{source} has {len(text)} characters, too many for a list of classes')
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = ' '.join(str(error).split())
        raise ValueError(f'{source} is not valid YAML: {line:.200}') from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{source} must hold fields such as "names:", got {describe_value(content)}'
        )
    return content


def make_object_spec(
    categories: Sequence[Any],
    *,
    source: str,
    background: str = DEFAULT_BACKGROUND,
    stuff: str = '',
    num_instances: int = 0,
) -> ObjectSpec:
    """Makes the spec of a data set of objects: all classes are things but for those named.

    Args:
      categories: objects with 'id' and 'name', and with 'isthing' where it is known.
      source: name of the file that lists them, for error messages.
      background: name of the class of pixels without an object; it comes last unless it is
        listed. 'void': such pixels belong to no class.
      stuff: names of classes whose regions are no single objects, separated by commas.
      num_instances: the largest number of objects of one class in an image.

    Raises:
      ValueError: a category is malformed, `stuff` names an unknown class, or all of them.
    """
    stuff_names = [name.strip() for name in stuff.split(',') if name.strip()]
    backgrounds = {background, DEFAULT_BACKGROUND, LABELME_BACKGROUND} - {NO_BACKGROUND}
    listed = [
        {'isthing': int(str(c.get('name')).strip() not in backgrounds), **c}
        if isinstance(c, Mapping)
        else c
        for c in categories
    ]
    spec = catalog.from_categories('own', listed, source=source)
    for name in stuff_names:
        if name not in spec.class_names:
            raise ValueError(
                f'--stuff names {name!r}: {typing.suggest(name, spec.class_names)}{source} has '
                f'{", ".join(spec.class_names[:20])}'
            )
    listed = [{**c, 'isthing': 0} if c['name'] in stuff_names else c for c in listed]
    found = [name for name in spec.class_names if name in backgrounds]
    if background != NO_BACKGROUND and not found:
        free = max(spec.class_of_category) + 1
        added = {'id': free, 'name': background, 'isthing': 0, 'color': list(_BACKGROUND_COLOR)}
        listed = [*listed, added]
        found = [background]
    spec = catalog.make_room(catalog.from_categories('own', listed, source=source), num_instances)
    if background == NO_BACKGROUND:
        return ObjectSpec(spec, spec.label_format.void_label)
    name = background if background in found else found[0]
    return ObjectSpec(spec, spec.class_names.index(name) * spec.label_divisor)


def get_colors(categories: Sequence[Any]) -> dict[tuple[int, int, int], int]:
    """Returns (r, g, b) -> id, for the categories of a list that state a colour.

    Raises:
      ValueError: two categories have the same colour.
    """
    ids: dict[tuple[int, int, int], int] = {}
    for category in categories:
        color = category.get('color')
        if color is None:
            continue
        red, green, blue = color
        if (red, green, blue) in ids:
            raise ValueError(
                f'the colour ({red}, {green}, {blue}) of class {category["name"]!r} is also that '
                f'of the class with id {ids[red, green, blue]}: give each class its own'
            )
        ids[red, green, blue] = category['id']
    return ids


def _from_json(content: Any, source: str) -> ClassList:
    if isinstance(content, Mapping) and isinstance(content.get('classes'), list):
        return _from_supervisely(content['classes'], source)
    if isinstance(content, Mapping) and all(to_integer(key) is not None for key in content):
        return _from_names(content, source)
    if not isinstance(content, list):
        raise ValueError(
            f'{source} must be a list of classes, got {describe_value(content)}: {_REMEDY}'
        )
    if content and all(isinstance(value, str) for value in content):
        return _from_names(content, source)
    entries = [dict(value) if isinstance(value, Mapping) else value for value in content]
    is_table = bool(entries) and all(isinstance(e, dict) and 'id' not in e for e in entries)
    if is_table:
        entries = [{'id': i, **e} for i, e in enumerate(entries)]
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get('color'), str):
            entry['color'] = _parse_hex(entry['color'], source)
    return ClassList(tuple(entries), is_table)


def _from_supervisely(classes: Sequence[Any], source: str) -> ClassList:
    categories = []
    for index, values in enumerate(classes):
        if not isinstance(values, Mapping) or not isinstance(values.get('title'), str):
            raise ValueError(f'classes[{index}] of {source} lacks the field "title"')
        category = {'id': index, 'name': values['title']}
        if isinstance(values.get('color'), str):
            category['color'] = _parse_hex(values['color'], source)
        categories.append(category)
    return ClassList(tuple(categories), is_color_table=True)


def _parse_hex(text: str, source: str) -> list[int]:
    digits = text.removeprefix('#')
    if not re.fullmatch('[0-9a-fA-F]{6}', digits):
        raise ValueError(f'{source}: color {text!r} must be #rrggbb')
    return list(parse_color(digits))


def _from_names(names: Any, source: str) -> ClassList:
    """Makes a list of names in a row, or of index -> name."""
    if isinstance(names, Mapping):
        ids = [to_integer(key) for key in names]
        if None in ids:
            wrong = next(key for key, i in zip(names, ids, strict=True) if i is None)
            raise ValueError(
                f'{source} has the index {describe_value(wrong)}: give integers, or a list of names'
            )
        pairs = sorted(zip(ids, names.values(), strict=True), key=lambda pair: pair[0] or 0)
    elif isinstance(names, list):
        pairs = list(enumerate(names))
    else:
        raise ValueError(
            f'{source} must be a list of names, got {describe_value(names)}: {_REMEDY}'
        )
    return ClassList(tuple({'id': i, 'name': name} for i, name in pairs))


def _from_labelmap(lines: Sequence[str], source: str) -> ClassList:
    categories = []
    for line in lines:
        match = _LABELMAP_LINE.fullmatch(line)
        if not match:
            raise ValueError(f'{source}: line {describe_value(line)} must be name:r,g,b::')
        color = [int(match[i]) for i in (2, 3, 4)]
        categories.append({'id': len(categories), 'name': match[1].strip(), 'color': color})
    return ClassList(tuple(categories), is_color_table=True)


def _from_csv(text: str, source: str) -> ClassList:
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise ValueError(f'{source} is not valid CSV: {error}') from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    if 'pixel value' in header and 'class' in header:
        columns = header.index('pixel value'), header.index('class')
        return _from_names(
            {row[columns[0]]: row[columns[1]] for row in rows[1:] if len(row) > max(columns)},
            source,
        )
    columns = [0, 1, 2, 3]
    if {'name', 'r', 'g', 'b'} <= set(header):
        columns = [header.index(key) for key in ('name', 'r', 'g', 'b')]
        rows = rows[1:]
    categories = []
    for row in rows:
        cells = [row[i] if i < len(row) else '' for i in columns]
        color = [to_integer(cell) for cell in cells[1:]]
        if None in color:
            line = describe_value(','.join(row))
            raise ValueError(f'{source}: line {line} must be name,r,g,b')
        categories.append({'id': len(categories), 'name': cells[0], 'color': color})
    return ClassList(tuple(categories), is_color_table=True)
