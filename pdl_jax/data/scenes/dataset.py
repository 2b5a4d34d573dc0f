"""Generated scenes: small landscapes with exact labels, written in COCO panoptic format.

    python -m pdl_jax.data.scenes.dataset --out=/data/scenes --num_train=1000 --num_val=100

Each image depends only on (seed, split, index) and the image size. The result is a folder that any
reader of the official COCO panoptic format takes:

    DIR/scenes.json                     the arguments that made the folder
    DIR/{train,val}/images/*.jpg
    DIR/{train,val}/panoptic_{split}/*.png    id = R + 256 G + 65536 B; 0 = void
    DIR/{train,val}/panoptic_{split}.json
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tqdm
from PIL import Image

from pdl_jax.data.scenes import camera as scene_camera
from pdl_jax.data.scenes import places as scene_places
from pdl_jax.data.scenes import textures as scene_textures
from pdl_jax.data.scenes import things as scene_things
from pdl_jax.runtime import process_map
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, read_json
from pdl_jax.storage.paths import explain_write_errors

SPLITS = ('train', 'val')
JPEG_QUALITY = 92
MANIFEST = 'scenes.json'
# To be raised with every change of the images, so that old folders are recognised.
VERSION = 1
_MIN_SEGMENT_AREA_PX = 60  # at 192 x 256; smaller segments become void

# Ids have gaps, as in COCO, so that readers must map them to contiguous classes.
# All pairs of colours differ by a CIEDE2000 of at least 12, also for people with deuteranopia or
# protanopia.
CATEGORIES = [
    {'supercategory': 'person', 'color': [240, 40, 100], 'isthing': 1, 'id': 1, 'name': 'person'},
    {'supercategory': 'vehicle', 'color': [40, 0, 180], 'isthing': 1, 'id': 3, 'name': 'car'},
    {'supercategory': 'vehicle', 'color': [180, 140, 20], 'isthing': 1, 'id': 5, 'name': 'boat'},
    {'supercategory': 'sports', 'color': [200, 60, 220], 'isthing': 1, 'id': 8, 'name': 'ball'},
    {'supercategory': 'plant', 'color': [60, 120, 80], 'isthing': 1, 'id': 13, 'name': 'tree'},
    {'supercategory': 'building', 'color': [120, 40, 40], 'isthing': 1, 'id': 21, 'name': 'house'},
    {'supercategory': 'animal', 'color': [220, 220, 180], 'isthing': 1, 'id': 34, 'name': 'sheep'},
    {'supercategory': 'outdoor', 'color': [120, 180, 220], 'isthing': 0, 'id': 101, 'name': 'sky'},
    {
        'supercategory': 'outdoor',
        'color': [80, 60, 80],
        'isthing': 0,
        'id': 102,
        'name': 'mountain',
    },
    {'supercategory': 'ground', 'color': [200, 240, 20], 'isthing': 0, 'id': 105, 'name': 'grass'},
    {
        'supercategory': 'outdoor',
        'color': [120, 140, 160],
        'isthing': 0,
        'id': 110,
        'name': 'water',
    },
    {'supercategory': 'ground', 'color': [140, 80, 140], 'isthing': 0, 'id': 117, 'name': 'road'},
    {'supercategory': 'building', 'color': [160, 80, 20], 'isthing': 0, 'id': 126, 'name': 'wall'},
    {'supercategory': 'ground', 'color': [220, 180, 100], 'isthing': 0, 'id': 140, 'name': 'sand'},
]
_CATEGORY = {category['name']: category for category in CATEGORIES}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image with its labels.

    Attributes:
      image: u8[H, W, 3].
      ids: segment ids, i32[H, W], 0 = void.
      segments: entries of COCO's 'segments_info': id, category_id, area, bbox (x, y, width, height)
        and iscrowd.
    """

    image: np.ndarray
    ids: np.ndarray
    segments: list[dict[str, Any]]


def render_scene(
    seed: int, split: str, index: int, *, height_px: int = 192, width_px: int = 256
) -> Scene:
    """Renders one scene.

    Args:
      seed: seed of the data set, >= 0.
      split: 'train' or 'val'.
      index: position in the split, >= 0.
      height_px: height of the image, at least 48.
      width_px: width of the image, at least 64.

    Raises:
      ValueError: an argument is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, not {split!r}')
    if height_px < 48 or width_px < 64:
        raise ValueError(
            f'scenes need at least 48 x 64 pixels, not {height_px} x {width_px}: '
            f'raise height_px or width_px'
        )
    if seed < 0 or index < 0:
        raise ValueError(f'seed (={seed}) and index (={index}) must be >= 0')
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    kind = scene_places.KINDS[rng.integers(len(scene_places.KINDS))]
    light = scene_textures.sample_light(rng)
    canvas = scene_places.draw_place(rng, kind, light, height_px=height_px, width_px=width_px)
    names = ['void', *scene_places.STUFF_NAMES]
    crowds: set[int] = set()
    things = scene_things.place_things(rng, kind, canvas)
    crowd = scene_things.place_crowd(rng, kind, canvas, things) if rng.random() < 0.16 else []
    clusters = [[thing] for thing in things] + ([crowd] if crowd else [])
    for cluster in sorted(clusters, key=lambda members: members[0].y):
        label = len(names)
        names.append(cluster[0].name)
        if cluster is crowd:
            crowds.add(label)
        for thing in cluster:
            is_end_view = kind == 'street'
            scene_things.draw_thing(rng, canvas, light, thing, label, is_end_view=is_end_view)
    if rng.random() < 0.25:
        scene_camera.draw_obstacle(rng, canvas, light)
    ids, segments = _collect_segments(rng, canvas.label, names, crowds)
    return Scene(scene_camera.develop_image(rng, canvas), ids, segments)


def _collect_segments(
    rng: np.random.Generator, label: np.ndarray, names: Sequence[str], crowds: Collection[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns segment ids and descriptions of the labels with enough pixels; the rest is void."""
    smallest = max(12, round(_MIN_SEGMENT_AREA_PX * label.size / (192 * 256)))
    areas = np.bincount(label.ravel(), minlength=len(names))
    table = np.zeros(len(names), np.int32)
    segments = []
    used = {0}
    for value in np.flatnonzero(areas >= smallest).tolist():
        if value == scene_places.VOID:
            continue
        category = _CATEGORY[names[value]]
        # Ids near the class colour, as from the official tools, make the PNG readable for people.
        segment_id = 0
        while segment_id in used:
            red, green, blue = np.clip(
                np.array(category['color']) + rng.integers(-30, 31, 3), 0, 255
            )
            segment_id = int(red + 256 * green + 65536 * blue)
        used.add(segment_id)
        table[value] = segment_id
        inside = label == value
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        segments.append(
            {
                'id': segment_id,
                'category_id': category['id'],
                'area': int(areas[value]),
                'bbox': [int(v) for v in box],
                'iscrowd': int(value in crowds),
            }
        )
    return table[label], segments


def write_scenes(
    out_dir: str | os.PathLike,
    *,
    num_train: int = 1000,
    num_val: int = 100,
    height_px: int = 192,
    width_px: int = 256,
    seed: int = 0,
    num_processes: int | None = None,
) -> None:
    """Writes the data set to `out_dir`, unless it exists already, made with the same arguments.

    The folder is complete or missing: it is made beside its place and renamed at the end.

    Args:
      out_dir: folder to make, with its parents.
      num_train: number of images of the split 'train'.
      num_val: number of images of the split 'val'.
      height_px: height of the images.
      width_px: width of the images.
      seed: seed of the images, >= 0.
      num_processes: number of worker processes; None: one per CPU core. The bytes do not depend on
        it.

    Raises:
      ValueError: `out_dir` was made with other arguments, or an argument is out of range.
    """
    out_dir = pathlib.Path(out_dir)
    num_images = {'train': num_train, 'val': num_val}
    manifest = {
        'version': VERSION,
        'num_train': num_train,
        'num_val': num_val,
        'height_px': height_px,
        'width_px': width_px,
        'seed': seed,
    }
    if num_train < 0 or num_val < 0 or seed < 0:
        raise ValueError(
            f'num_train (={num_train}), num_val (={num_val}) and seed (={seed}) must be >= 0'
        )
    if num_processes is None:
        num_processes = os.cpu_count() or 1
    if num_processes < 1:
        raise ValueError(f'num_processes (={num_processes}) must be >= 1, or None for every core')
    if out_dir.is_file() or (out_dir.is_dir() and any(out_dir.iterdir())):
        check_manifest(out_dir, manifest)
        return
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}.', dir=out_dir.parent))
    try:
        # mkdtemp makes a private folder; a folder inside it gets the permissions of mkdir.
        staging = temporary / 'scenes'
        with explain_write_errors(out_dir):
            _write_splits(
                staging,
                num_images,
                height_px=height_px,
                width_px=width_px,
                seed=seed,
                num_processes=num_processes,
            )
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n')
        try:
            os.rename(staging, out_dir)
        except OSError:
            # Another process may have finished the same folder in the meantime.
            check_manifest(out_dir, manifest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_splits(
    folder: pathlib.Path,
    num_images: dict[str, int],
    *,
    height_px: int,
    width_px: int,
    seed: int,
    num_processes: int,
) -> None:
    for split in SPLITS:
        (folder / split / 'images').mkdir(parents=True)
        (folder / split / f'panoptic_{split}').mkdir()
    work = [(split, index) for split in SPLITS for index in range(num_images[split])]
    write = functools.partial(_write_scene, folder, seed, height_px, width_px)
    # A single worker would only add the time of its start.
    num_workers = num_processes if num_processes > 1 and len(work) > 1 else 0
    with process_map.map_ordered(write, work, num_workers) as results:
        annotations = list(tqdm.tqdm(results, total=len(work), desc='scenes', unit='image'))
    for split in SPLITS:
        chosen = [
            annotation
            for (of_split, _), annotation in zip(work, annotations, strict=True)
            if of_split == split
        ]
        _write_annotations(
            folder / split / f'panoptic_{split}.json', split, chosen, height_px, width_px
        )


def check_manifest(out_dir: pathlib.Path, wanted: dict[str, int], name: str = MANIFEST) -> None:
    """Checks that a folder was made with some arguments, by the file that lists them.

    Raises:
      ValueError: it was made with others, or by something else.
    """
    path = out_dir / name
    try:
        found = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'{out_dir} exists but holds no readable {name}: give another folder'
        ) from error
    if found != wanted:
        raise ValueError(
            f'{out_dir} was made with {found}, not {wanted}: '
            f'give another folder, or delete this one to make it anew'
        )


def _write_scene(
    folder: pathlib.Path, seed: int, height_px: int, width_px: int, item: tuple[str, int]
) -> dict[str, Any]:
    """Renders and writes one image and its labels; returns its entry in 'annotations'."""
    split, index = item
    scene = render_scene(seed, split, index, height_px=height_px, width_px=width_px)
    image_id = 1_000_000 * SPLITS.index(split) + index + 1
    stem = f'{image_id:012d}'
    Image.fromarray(scene.image).save(
        folder / split / 'images' / f'{stem}.jpg', quality=JPEG_QUALITY
    )
    rgb = np.stack([scene.ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(folder / split / f'panoptic_{split}' / f'{stem}.png')
    return {'segments_info': scene.segments, 'file_name': f'{stem}.png', 'image_id': image_id}


def _write_annotations(
    path: pathlib.Path,
    split: str,
    annotations: Sequence[dict[str, Any]],
    height_px: int,
    width_px: int,
) -> None:
    images = [
        {
            'license': 1,
            'file_name': annotation['file_name'].replace('.png', '.jpg'),
            'height': height_px,
            'width': width_px,
            'id': annotation['image_id'],
        }
        for annotation in annotations
    ]
    content = {
        'info': {'description': f'generated scenes, {split}', 'version': str(VERSION)},
        'licenses': [
            {
                'id': 1,
                'name': 'Public domain',
                'url': 'https://creativecommons.org/publicdomain/zero/1.0/',
            }
        ],
        'images': images,
        'annotations': annotations,
        'categories': CATEGORIES,
    }
    path.write_text(json.dumps(content) + '\n')


def main() -> None:
    """Runs the command; `python -m pdl_jax.data.scenes.dataset --help` lists the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', required=True, help='folder to make')
    parser.add_argument('--num_train', type=int, default=1000)
    parser.add_argument('--num_val', type=int, default=100)
    parser.add_argument('--height_px', type=int, default=192)
    parser.add_argument('--width_px', type=int, default=256)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--num_processes', type=int, default=None, help='default: one per CPU core')
    flags = vars(parser.parse_args())
    write_scenes(flags.pop('out'), **flags)


if __name__ == '__main__':
    main()
