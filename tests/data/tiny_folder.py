"""A tiny folder in the COCO panoptic format, for the tests of this directory."""

import json
import pathlib
from typing import TypedDict

import numpy as np
from PIL import Image

CATEGORIES = [
    {'id': 9, 'name': 'dog', 'isthing': 1, 'color': [10, 20, 30], 'supercategory': 'animal'},
    {'id': 3, 'name': 'cat', 'isthing': 1, 'color': [40, 50, 60], 'supercategory': 'animal'},
    {'id': 7, 'name': 'sky', 'isthing': 0, 'color': [70, 80, 90], 'supercategory': 'outdoor'},
]
SIZES = [(24, 32), (24, 32), (32, 24), (20, 30), (24, 32), (17, 25)]


class FolderPaths(TypedDict):
    """The paths of a folder, by parameter of `prepare_panoptic_folder`."""

    images_dir: pathlib.Path
    panoptic_dir: pathlib.Path
    json_path: pathlib.Path


def make_ids(index: int) -> tuple[np.ndarray, list[dict]]:
    """Returns i32[H, W] of segment ids and the segments: sky, cats, a dog, sometimes a crowd.

    Rows 10 and 11 stay void. Ids need all three colours.
    """
    height, width = SIZES[index % len(SIZES)]
    ids = np.zeros((height, width), np.int32)
    ids[:10] = 70000 + index
    ids[12:15, 2:8] = 300
    ids[12:14, 10:20] = 5
    ids[15:17, :11] = 16_000_000
    segments = [(16_000_000, 3, 0), (70000 + index, 7, 0), (5, 9, 0), (300, 3, 0)]
    if index % 2 == 0:
        ids[16, 15:20] = 999
        segments.append((999, 9, 1))
    infos = [
        {'id': i, 'category_id': c, 'iscrowd': crowd, 'area': int((ids == i).sum()), 'bbox': []}
        for i, c, crowd in segments
    ]
    return ids, infos


def make_image(index: int) -> np.ndarray:
    """Returns u8[H, W, 3]; the first channel encodes the index."""
    height, width = SIZES[index % len(SIZES)]
    image = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[..., 0] = (10 * index + 5) % 256
    return image


def write_tiny_folder(root: pathlib.Path, num_images: int = 6) -> FolderPaths:
    """Writes images as PNG and returns the paths."""
    (root / 'images').mkdir(parents=True)
    (root / 'panoptic').mkdir()
    content: dict[str, list] = {'images': [], 'annotations': [], 'categories': CATEGORIES}
    for index in range(num_images):
        ids, segments = make_ids(index)
        name, image_id = f'{index:06d}.png', 100 + index
        Image.fromarray(make_image(index)).save(root / 'images' / name)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(root / 'panoptic' / name)
        height, width = ids.shape
        content['images'].append(
            {'id': image_id, 'file_name': name, 'height': height, 'width': width}
        )
        content['annotations'].append(
            {'image_id': image_id, 'file_name': name, 'segments_info': segments}
        )
    (root / 'panoptic.json').write_text(json.dumps(content))
    return {
        'images_dir': root / 'images',
        'panoptic_dir': root / 'panoptic',
        'json_path': root / 'panoptic.json',
    }
