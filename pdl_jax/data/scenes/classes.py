"""Generated images of one thing or one kind of stuff each, to classify, as a folder for each class.

The images are parts of the landscapes of `dataset`, and the classes are those of its categories.
They are generated here and in the public domain, as the scenes are.

    DIR/classes.json                    the arguments that made the folder
    DIR/{train,val}/CLASS/*.png
"""

import functools
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import tqdm
from PIL import Image

from pdl_jax.data.scenes import camera as scene_camera
from pdl_jax.data.scenes import places as scene_places
from pdl_jax.data.scenes import textures as scene_textures
from pdl_jax.data.scenes import things as scene_things
from pdl_jax.data.scenes.dataset import CATEGORIES, SPLITS, check_manifest
from pdl_jax.runtime import process_map
from pdl_jax.storage.paths import explain_write_errors

MANIFEST = 'classes.json'
# To be raised with every change of the images, so that old folders are recognised.
VERSION = 1
CLASSES = tuple(category['name'] for category in CATEGORIES)
_PLACE_SIZE = {'height_px': 192, 'width_px': 256}
_MIN_SIDE_PX = 24
# Share of a window that the stuff it is named after must cover, and windows tried in a place.
_MIN_STUFF_SHARE = 0.7
_NUM_WINDOWS = 8
# Kinds of places that have some stuff, often enough to look for it there.
_KINDS_OF_STUFF = {
    'sky': scene_places.KINDS,
    'mountain': ('street', 'lake', 'meadow'),
    'grass': ('street', 'lake', 'meadow'),
    'water': ('lake', 'beach', 'meadow'),
    'road': ('street', 'town'),
    'wall': ('town',),
    'sand': ('beach',),
}
# Keeps the draws apart from those of `dataset.render_scene`.
_DRAW = 1


def render_object(
    seed: int, split: str, index: int, *, side_px: int = 64
) -> tuple[np.ndarray, str]:
    """Renders one image.

    Args:
      seed: seed of the data set, >= 0.
      split: 'train' or 'val'.
      index: position in the split, >= 0.
      side_px: height and width of the image in pixels.

    Returns:
      u8[side_px, side_px, 3] and the name of its class.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _DRAW])
    name = CLASSES[rng.integers(len(CLASSES))]
    kinds = _KINDS_OF_STUFF.get(name) or scene_things.find_kinds(name)
    while True:
        kind = kinds[rng.integers(len(kinds))]
        light = scene_textures.sample_light(rng)
        canvas = scene_places.draw_place(rng, kind, light, **_PLACE_SIZE)
        if name in scene_places.STUFF_NAMES:
            window = _find_stuff(rng, canvas, name)
        else:
            window = _draw_thing(rng, canvas, light, kind, name)
        if window is not None:
            break
    image = Image.fromarray(scene_camera.develop_image(rng, canvas)).crop(window)
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BILINEAR)), name


def _find_stuff(
    rng: np.random.Generator, canvas: scene_places.Canvas, name: str
) -> tuple[int, int, int, int] | None:
    """Finds a window (left, top, right, bottom) that mostly shows some stuff."""
    is_stuff = canvas.label == scene_places.STUFF_LABELS[name]
    height, width = is_stuff.shape
    for _ in range(_NUM_WINDOWS):
        side = int(rng.integers(_MIN_SIDE_PX, height // 2))
        left, top = int(rng.integers(width - side)), int(rng.integers(height - side))
        if is_stuff[top : top + side, left : left + side].mean() >= _MIN_STUFF_SHARE:
            return left, top, left + side, top + side
    return None


def _draw_thing(
    rng: np.random.Generator,
    canvas: scene_places.Canvas,
    light: scene_textures.Light,
    kind: str,
    name: str,
) -> tuple[int, int, int, int] | None:
    """Draws a thing into a place, if it has room, and returns a window around it."""
    thing = scene_things.place_thing(rng, name, canvas)
    if thing is None:
        return None
    label = len(scene_places.STUFF_NAMES) + 1
    is_end_view = kind == 'street'
    scene_things.draw_thing(rng, canvas, light, thing, label, is_end_view=is_end_view)
    left, top, right, bottom = thing.box()
    height, width = canvas.label.shape
    side = max(right - left, bottom - top) * rng.uniform(1.05, 1.6)
    side = int(min(max(side, _MIN_SIDE_PX), height))
    center = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.uniform(-0.1, 0.1, 2) * side
    start = np.clip(np.round(center - side / 2), 0, [width - side, height - side]).astype(int)
    return start[0], start[1], start[0] + side, start[1] + side


def write_classes(
    out_dir: str | os.PathLike,
    *,
    num_train: int,
    num_val: int,
    side_px: int = 64,
    seed: int = 0,
    num_processes: int | None = None,
) -> None:
    """Writes the data set to `out_dir`, unless it exists already, made with the same arguments.

    The folder is complete or missing: it is made beside its place and renamed at the end.

    Args:
      out_dir: folder to make, with its parents.
      num_train, num_val: number of images of the splits.
      side_px: height and width of the images.
      seed: seed of the images, >= 0.
      num_processes: number of worker processes; None: one per CPU core. The bytes do not depend on
        it.

    Raises:
      ValueError: `out_dir` was made with other arguments, or an argument is out of range.
    """
    out_dir = pathlib.Path(out_dir)
    manifest = {'version': VERSION, 'num_train': num_train, 'num_val': num_val}
    manifest |= {'side_px': side_px, 'seed': seed}
    if min(num_train, num_val, seed) < 0 or side_px < 1:
        raise ValueError(f'numbers of images, seed and side must not be negative: {manifest}')
    if out_dir.is_dir() and any(out_dir.iterdir()):
        check_manifest(out_dir, manifest, MANIFEST)
        return
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = [('train', i) for i in range(num_train)] + [('val', i) for i in range(num_val)]
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}.', dir=out_dir.parent))
    try:
        # mkdtemp makes a private folder; a folder inside it gets the permissions of mkdir.
        staging = temporary / 'classes'
        for split in SPLITS:
            for name in CLASSES:
                (staging / split / name).mkdir(parents=True)
        write = functools.partial(_write_object, staging, seed, side_px)
        with (
            explain_write_errors(out_dir),
            process_map.map_ordered(write, work, num_processes) as results,
        ):
            for _ in tqdm.tqdm(results, total=len(work), desc='images', unit='image'):
                pass
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n')
        try:
            os.rename(staging, out_dir)
        except OSError:
            # Another process may have finished the same folder in the meantime.
            check_manifest(out_dir, manifest, MANIFEST)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_object(folder: pathlib.Path, seed: int, side_px: int, item: tuple[str, int]) -> None:
    split, index = item
    image, name = render_object(seed, split, index, side_px=side_px)
    Image.fromarray(image).save(folder / split / name / f'{split}_{index:06d}.png')
