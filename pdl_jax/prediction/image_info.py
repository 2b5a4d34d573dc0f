"""Images of a split without labels, as COCO's image_info_test2017.json lists them."""

import os

from absl import logging

from pdl_jax.data.file_names import find_files
from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.data.json_fields import get_field, refuse_repeated
from pdl_jax.data.notices import Notices
from pdl_jax.data.segments_info import parse_image_id
from pdl_jax.storage.json_files import read_json
from pdl_jax.storage.paths import make_path


def read_image_info(json_path: str, folder: str) -> dict[str, int | str]:
    """Reads the list of a split's images; annotations are not needed.

    Args:
      json_path: a file with 'images', each with an 'id' and a 'file_name'; local or gs://.
      folder: folder of the images, local or gs://; see `file_names.find_files`.

    Returns:
      The id of each image by its path, in the order of the file.

    Raises:
      FileNotFoundError: the file, the folder or an image is missing.
      ValueError: the file lists no images; the message names the field.
    """
    content = read_json(json_path)
    source = os.path.basename(json_path)
    images = get_field(content, 'images', list, source)
    if not images:
        raise ValueError(f'{json_path}: images is empty: give a file that lists images')
    notices = Notices()
    ids, names = [], []
    for i, image in enumerate(images):
        where = f'images[{i}] of {source}'
        ids.append(parse_image_id(image, 'id', where, notices))
        names.append(get_field(image, 'file_name', str, where))
    refuse_repeated(ids, f'images[].id of {source}')
    root = make_path(folder)
    paths = find_files(names, root, IMAGE_SUFFIXES, source, notices)
    for line in notices.to_lines():
        logging.info('%s', line)
    return {os.fspath(root / path): image_id for path, image_id in zip(paths, ids, strict=True)}
