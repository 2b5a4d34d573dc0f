"""Draws the pictures of docs/concepts.md from generated scenes, by the functions of the package.

python examples/draw_concepts.py --out=docs/images
"""

import argparse
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.data.scenes.dataset import write_scenes
from pdl_jax.postprocess.panoptic import PostprocessOptions, post_process
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.systems.drawing.colors import color_panoptic, color_semantic
from pdl_jax.systems.drawing.errors import error_picture, find_errors
from pdl_jax.systems.drawing.fields import draw_offset, heatmap_picture
from pdl_jax.systems.drawing.overlay import overlay_panoptic
from pdl_jax.typing import LabelFormat

# The scene of the split val that is drawn.
INDEX = 3
_TARGETS = TargetOptions(sigma_px=4.0, max_instances=64)
_RULES = PostprocessOptions(nms_kernel_px=9, max_centers=64, stuff_area_limit_px=128)
# Colours of a picture: fewer make its file smaller.
_NUM_COLORS = 96


def main() -> None:
    """Renders the scene, and writes a PNG per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw_pictures(_prepare(pathlib.Path(folder)))
    for name, picture in pictures.items():
        file = out / f'concept_{name}.png'
        Image.fromarray(picture).quantize(_NUM_COLORS).save(file, optimize=True)
        print(f'{file}: {file.stat().st_size} bytes')


def draw_pictures(source: RecordSource) -> dict[str, np.ndarray]:
    """Draws the way of one image from its label to targets, and from outputs back to a label.

    The outputs are the targets themselves, disturbed: a network that is nearly right.

    Returns:
      u8[H, W, 3] by name.
    """
    spec, label_format = source.spec, source.spec.label_format
    colors = spec.make_palette()
    image, panoptic = source.decode(INDEX)
    targets = jax.device_get(
        make_targets(jnp.asarray(panoptic), label_format=label_format, options=_TARGETS)
    )
    outputs = disturb(targets, label_format, np.random.default_rng(0))
    maps = post_process(outputs, label_format=label_format, options=_RULES)
    maps = {key: np.asarray(value[0]) for key, value in maps.items()}
    names = spec.class_names
    instance = maps['instance'] + label_format.label_divisor * label_format.thing_classes[0]
    return {
        'label': overlay_panoptic(image, panoptic, label_format, class_names=names, colors=colors),
        'center': heatmap_picture(targets['center'], image),
        'offset': draw_offset(targets['offset'], targets['offset_weight'] > 0),
        'semantic': color_semantic(maps['semantic'], colors),
        'instances': np.where(
            maps['instance'][..., None] > 0,
            color_panoptic(instance, label_format, colors),
            np.uint8(0),
        ),
        'panoptic': color_panoptic(maps['panoptic'], label_format, colors),
        'errors': error_picture(find_errors(maps['panoptic'], panoptic, label_format), image),
    }


def disturb(
    targets: dict[str, np.ndarray], label_format: LabelFormat, rng: np.random.Generator
) -> dict[str, jax.Array]:
    """Makes outputs of one image from its targets, with smooth noise.

    Args:
      targets: of `make_targets`.
      label_format: the coding of classes.
      rng: draws the noise.

    Returns:
      'semantic' f32[1, H, W, C] logits, 'center' f32[1, H, W, 1] and 'offset' f32[1, H, W, 2] in
      pixels.
    """
    size = targets['semantic'].shape
    classes = np.arange(label_format.num_classes)
    is_class = targets['semantic'][..., None] == classes
    # Beside a logit of 4 of the true class, another one wins in few regions only.
    logits = 4.0 * is_class + 1.4 * _draw_noise(rng, (*size, len(classes)), cell_px=24)
    # Below 1: a plateau of clipped heat would be many centres.
    center = targets['center'] * (0.7 + 0.1 * _draw_noise(rng, (*size, 1), cell_px=16)[..., 0])
    offset = targets['offset'] + 1.5 * _draw_noise(rng, (*size, 2), cell_px=8)
    outputs = {'semantic': logits, 'center': center[..., None], 'offset': offset}
    return {key: jnp.asarray(value[None], jnp.float32) for key, value in outputs.items()}


def _draw_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], *, cell_px: int
) -> np.ndarray:
    """Draws smooth noise of unit variance per cell, f32[H, W, D]."""
    height, width, num = shape
    small = rng.standard_normal((height // cell_px + 1, width // cell_px + 1, num))
    return np.asarray(jax.image.resize(jnp.asarray(small, jnp.float32), shape, 'bilinear'))


def _prepare(folder: pathlib.Path) -> RecordSource:
    raw = folder / 'raw'
    write_scenes(raw, num_train=0, num_val=INDEX + 1, num_processes=1)
    prepare_panoptic_folder(
        images_dir=raw / 'val' / 'images',
        panoptic_dir=raw / 'val' / 'panoptic_val',
        json_path=raw / 'val' / 'panoptic_val.json',
        out_dir=folder / 'data',
        split='val',
        num_processes=0,
    )
    return open_split(folder / 'data', 'val')


if __name__ == '__main__':
    main()
