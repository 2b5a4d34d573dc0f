"""Reads any semantic data set: a folder of images and a folder of PNGs with class indices.

An image and its PNG have the same name except for the suffix. A file lists the classes: a text file
with one name per line, for the indices 0, 1, ..., or a JSON list of
{"id": index, "name": ..., "color": [r, g, b]}, in which colours are optional.
"""

import os
from collections.abc import Mapping

from etils import epath

from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    list_files,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.data.text_files import read_json, read_text
from pdl_jax.storage import paths

MAX_INDEX = 2**16 - 1


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
      labels_dir: folder with one PNG per image, with a palette or one grey channel of 8 or 16 bits.
      classes_path: list of the classes.
      void_id: index of pixels that belong to no class. Any other index without a class is an error.

    Raises:
      ValueError: the list of classes is malformed, or `void_id` is the index of a class.
      FileNotFoundError: a folder, the list, an image or a PNG is missing.
    """
    images_dir, labels_dir = paths.make_path(images_dir), paths.make_path(labels_dir)
    classes_path = paths.make_path(classes_path)
    spec = _read_classes(classes_path)
    if not 0 <= void_id <= MAX_INDEX:
        raise ValueError(f'void_id (={void_id}) must lie in 0 .. {MAX_INDEX}')
    if void_id in spec.class_of_category:
        name = spec.class_names[spec.class_of_category[void_id]]
        raise ValueError(
            f'void_id (={void_id}) is the index of class {name!r} in {classes_path.name}: choose '
            f'another --void_id, or leave the class out of the list'
        )
    remedy = f'list it in {classes_path.name}, or paint it {void_id} (void)'
    class_of_index = {void_id: spec.ignore_label, **spec.class_of_category}
    pairs = pair_files(
        list_files(images_dir, IMAGE_SUFFIXES, remedy='give the folder of images'),
        list_files(labels_dir, ('.png',), remedy='give the folder of label maps'),
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    return make_split(
        spec,
        pairs,
        make_semantic_translation(spec, class_of_index, remedy=remedy),
        images_dir=images_dir,
        labels_dir=labels_dir,
        options=void_id,
    )


def _read_classes(path: epath.Path) -> catalog.DatasetSpec:
    remedy = 'give a .json list of classes, or a text file with one name per line'
    if path.suffix.lower() == '.json':
        categories = read_json(path, remedy=remedy)
        if isinstance(categories, list):
            categories = [{**c, 'isthing': 0} if isinstance(c, Mapping) else c for c in categories]
    else:
        names = [line.strip() for line in read_text(path, remedy=remedy).rstrip().splitlines()]
        categories = [{'id': i, 'name': name, 'isthing': 0} for i, name in enumerate(names)]
    spec = catalog.from_categories('own', categories, source=path.name)
    highest = max(spec.class_of_category)
    if highest > MAX_INDEX:
        raise ValueError(
            f'{path.name}: id {highest} exceeds {MAX_INDEX}, the largest value of a 16-bit PNG'
        )
    return spec
