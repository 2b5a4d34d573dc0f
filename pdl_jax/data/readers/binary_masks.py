"""Reads binary masks of one class: a mask per image, zero outside and another value inside.

The values may be 0 and 1, 0 and 255, or bits. Objects are not told apart; files with one object
each are read by --format=object_masks.
"""

import os

import numpy as np

from pdl_jax.data import catalog, images, label_files
from pdl_jax.data.annotated_split import (
    AnnotatedSplit,
    make_semantic_translation,
    make_split,
    pair_files,
)
from pdl_jax.data.class_lists import DEFAULT_BACKGROUND
from pdl_jax.data.file_tree import list_stems, name_records
from pdl_jax.data.readers.instance_masks import MASK_TAILS
from pdl_jax.storage import paths


def read_split(
    images_dir: str | os.PathLike, labels_dir: str | os.PathLike, *, class_name: str
) -> AnnotatedSplit:
    """Reads a split for semantic segmentation with two classes.

    Args:
      images_dir: folder of images, which may lie in sub-folders.
      labels_dir: folder of masks with the names of the images: PNG, TIFF or .npy.
      class_name: class of the pixels inside.

    Raises:
      FileNotFoundError: a folder, an image or a mask is missing.
      ValueError: a name occurs twice.
    """
    images_dir, labels_dir = paths.make_path(images_dir), paths.make_path(labels_dir)
    names = (DEFAULT_BACKGROUND, class_name)
    if class_name == DEFAULT_BACKGROUND:
        raise ValueError(f'--class={class_name} names the pixels outside: name those inside')
    spec = catalog.from_categories(
        'own', [{'id': i, 'name': name, 'isthing': 0} for i, name in enumerate(names)],
        source='--class',
    )  # fmt: skip
    pairs = pair_files(
        list_stems(images_dir, images.IMAGE_SUFFIXES, remedy='give the folder of images'),
        list_stems(
            labels_dir, label_files.SUFFIXES, remedy='give the folder of masks', tails=MASK_TAILS
        ),
        images_dir=images_dir,
        labels_dir=labels_dir,
    )
    return make_split(
        spec,
        [
            pair._replace(**names._asdict())
            for pair, names in zip(pairs, name_records([p.image_path for p in pairs]), strict=True)
        ],
        make_semantic_translation(spec, {0: 0, 1: 1}, remedy=''),
        images_dir=images_dir,
        labels_dir=labels_dir,
        decode=_decode,
    )


def _decode(data: bytes, *, name: str) -> np.ndarray:
    return label_files.decode_mask(data, name=name).astype(np.int32)
