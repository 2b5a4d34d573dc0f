"""Folders as inputs: photographs with annotations, and predictions in COCO's panoptic format."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR, draw_label_maps, list_thing_classes
from pdl_jax.data.scenes import dataset as scenes

_PHOTOGRAPH_SIZE = (480, 640)


def write_photographs(num_images: int, folder: pathlib.Path) -> str:
    """Generates scenes of COCO's usual size and returns a folder for `find_annotations`."""
    scenes.write_scenes(
        folder / 'scenes',
        num_train=num_images,
        num_val=0,
        height_px=_PHOTOGRAPH_SIZE[0],
        width_px=_PHOTOGRAPH_SIZE[1],
    )
    return str(folder / 'scenes' / 'train')


def find_annotations(folder: str) -> dict[str, str]:
    """Finds the images, the PNGs and the JSON file in a folder.

    Returns:
      Paths by parameter of `prepare_panoptic_folder`.

    Raises:
      FileNotFoundError: the folder does not hold exactly one panoptic_NAME.json with a folder
        panoptic_NAME beside it.
    """
    files = sorted(pathlib.Path(folder).glob('panoptic_*.json'))
    if len(files) != 1 or not files[0].with_suffix('').is_dir():
        raise FileNotFoundError(
            f'{folder} must hold images/, one panoptic_NAME.json and the folder panoptic_NAME/'
        )
    return {
        'images_dir': str(pathlib.Path(folder) / 'images'),
        'panoptic_dir': str(files[0].with_suffix('')),
        'json_path': str(files[0]),
    }


def write_panoptic_files(arguments: Mapping[str, Any], folder: pathlib.Path) -> dict[str, str]:
    """Writes labels and predictions of `num_images` images.

    Returns:
      Paths by parameter of `evaluate_files`.
    """
    num_classes = arguments['num_classes']
    things = list_thing_classes(num_classes)
    categories = [
        {'id': c + 1, 'name': f'class_{c}', 'supercategory': 'any', 'isthing': int(c in things)}
        for c in range(num_classes)
    ]
    maps = [draw_label_maps(arguments, seed) for seed in range(arguments['num_images'])]
    files = {}
    for side, name in (('gt', 'label'), ('pred', 'prediction')):
        png_folder = folder / side
        png_folder.mkdir()
        annotations = [
            _write_png(both[name], png_folder, number) for number, both in enumerate(maps)
        ]
        images = [
            {
                'id': annotation['image_id'],
                'file_name': annotation['file_name'],
                'height': height,
                'width': width,
            }
            for annotation, (height, width) in zip(
                annotations, (both[name].shape for both in maps), strict=True
            )
        ]
        json_path = folder / f'{side}.json'
        json_path.write_text(
            json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
        )
        files.update({f'{side}_json': str(json_path), f'{side}_folder': str(png_folder)})
    return files


def _write_png(panoptic, folder, number):
    # Id 0 means void.
    ids = np.where(panoptic // LABEL_DIVISOR == IGNORE_LABEL, 0, panoptic + 1)
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    name = f'{number:06}.png'
    Image.fromarray(pixels).save(folder / name)
    return {'image_id': number, 'file_name': name, 'segments_info': describe_segments(ids)}


def describe_segments(ids: np.ndarray) -> Sequence[Mapping[str, int]]:
    """Makes COCO's 'segments_info' of a map with ids of panoptic label + 1."""
    return [
        {
            'id': int(i),
            'category_id': int(i - 1) // LABEL_DIVISOR + 1,
            'area': int(area),
            'iscrowd': 0,
        }
        for i, area in zip(*np.unique(ids, return_counts=True), strict=True)
        if i
    ]
