"""Reads any semantic data set: a folder of images and a folder of PNGs with class indices.

An image and its PNG have the same name except for the suffix, in the same sub-folder if there are
any. A file lists the classes: a text file
with one name per line, for the indices 0, 1, ..., or a JSON list of
{"id": index, "name": ..., "color": [r, g, b]}, in which colours are optional; see
`class_lists.read_class_list` for others. PNGs in colours are read by the colours of the list, as
are the palettes of tools whose list is a table of colours without indices.

Where 0 means unlabelled (`void_id` 0), the names of a text file count from 1, unless the first one
is a name for that.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from pdl_jax.data import catalog, label_files
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.data.class_lists import LABELME_VOID, get_colors, read_class_list
from pdl_jax.data.file_tree import list_stems, name_records
from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.data.label_files import MAX_INDEX
from pdl_jax.data.notices import Notices
from pdl_jax.storage import paths

_VOID_NAMES = ('void', LABELME_VOID)
# Names of what has no class, as the first name of a list.
_NOTHING_NAMES = frozenset(
    'void unlabeled unlabelled unannotated ignore ignored background bg none nothing unknown '
    'undefined __ignore__ _background_'.split()
)


def read_split(
    images_dir: str | os.PathLike,
    labels_dir: str | os.PathLike,
    classes_path: str | os.PathLike,
    *,
    void_id: int = 255,
) -> AnnotatedSplit:
    """Reads a split of a semantic data set.

    Args:
      images_dir: folder of JPEG, PNG, BMP or WebP files.
      labels_dir: folder with one PNG per image: with a palette, one grey channel of 1 to 16 bits,
        or the colours of the list.
      classes_path: list of the classes.
      void_id: index of pixels that belong to no class. Any other index without a class is an error.

    Raises:
      ValueError: the list of classes is malformed, or `void_id` is the index of a class.
      FileNotFoundError: a folder, the list, an image or a PNG is missing.
    """
    images_dir, labels_dir = paths.make_path(images_dir), paths.make_path(labels_dir)
    classes_path = paths.make_path(classes_path)
    notices = Notices()
    spec, colors, is_color_table = _read_classes(classes_path, void_id, notices)
    if not 0 <= void_id <= MAX_INDEX:
        raise ValueError(f'void_id (={void_id}) must lie in 0 .. {MAX_INDEX}')
    if void_id in spec.class_of_category:
        name = spec.class_names[spec.class_of_category[void_id]]
        raise ValueError(
            f'void_id (={void_id}) is the index of class {name!r} in {classes_path.name}: choose '
            f'another --void_id, or leave the class out of the list'
        )
    remedy = f'list it in {classes_path.name}, or paint it {void_id} (void)'
    if _has_bare_names(classes_path) and void_id:
        remedy += '; where 0 is unlabelled and the names count from 1, pass --void_id=0'
    class_of_index = {void_id: spec.ignore_label, **spec.class_of_category}
    pairs = pair_files(
        list_stems(images_dir, IMAGE_SUFFIXES, remedy='give the folder of images'),
        list_stems(labels_dir, ('.png',), remedy='give the folder of label maps'),
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    names = name_records([pair.image_path for pair in pairs])
    split = make_split(
        spec,
        [pair._replace(**n._asdict()) for pair, n in zip(pairs, names, strict=True)],
        make_semantic_translation(spec, class_of_index, remedy=remedy),
        images_dir=images_dir,
        labels_dir=labels_dir,
        options=[void_id, [list(pair) for pair in colors.items()], is_color_table],
        decode=functools.partial(
            label_files.decode_class_map, index_of_color=colors, prefers_colors=is_color_table
        ),
    )
    return dataclasses.replace(split, notes=notices.to_lines())


def _read_classes(
    path: epath.Path, void_id: int, notices: Notices
) -> tuple[catalog.DatasetSpec, dict[tuple[int, int, int], int], bool]:
    """Returns the spec, (r, g, b) -> index, and whether colours go before indices of palettes."""
    categories, is_color_table = read_class_list(path)
    categories = [{**c, 'isthing': 0} if isinstance(c, Mapping) else c for c in categories]
    if not void_id and _has_bare_names(path) and not is_color_table:
        categories = _count_from_one(categories, path.name, notices)
    # Tables of colours list that of void like a class.
    is_void = [is_color_table and str(c.get('name')).lower() in _VOID_NAMES for c in categories]
    listed = [c for c, is_left_out in zip(categories, is_void, strict=True) if not is_left_out]
    spec = catalog.from_categories('own', listed, source=path.name, notices=notices)
    highest = max(spec.class_of_category)
    if highest > MAX_INDEX:
        raise ValueError(
            f'{path.name}: id {highest} exceeds {MAX_INDEX}, the largest value of a 16-bit PNG'
        )
    colors = get_colors(listed)
    for category, is_left_out in zip(categories, is_void, strict=True):
        if is_left_out and category.get('color'):
            red, green, blue = category['color']
            colors[red, green, blue] = void_id
    return spec, colors, is_color_table


def _has_bare_names(path: epath.Path) -> bool:
    """Returns whether a list gives names without indices."""
    return path.suffix.lower() not in ('.json', '.yaml', '.yml', '.csv')


def _count_from_one(
    categories: Sequence[dict[str, Any]], source: str, notices: Notices
) -> list[dict[str, Any]]:
    """Returns the classes of a list of names where index 0 has none."""
    first = str(categories[0]['name']) if categories else ''
    if first.lower() in _NOTHING_NAMES:
        notices.add('names stand for index 0, which is void: left out', f'{first!r} in {source}')
        return list(categories[1:])
    counted = [{**c, 'id': c['id'] + 1} for c in categories]
    text = 'names count from 1, since 0 is void'
    notices.add(text, f'1 is {first!r} in {source}', len(counted))
    return counted
