"""Generated scenes as the data of a run."""

import contextlib
import os
import tempfile

import jax

from pdl_jax.data.prepare import prepare_panoptic_folder, prepare_split
from pdl_jax.data.readers import image_folder
from pdl_jax.data.scenes.classes import write_classes
from pdl_jax.data.scenes.dataset import write_scenes
from pdl_jax.data.split_directory import is_complete
from pdl_jax.experiment.sections import DataOptions, ScenesOptions
from pdl_jax.runtime.processes import wait_for_all
from pdl_jax.storage.paths import is_remote, make_path

_SPLITS = ('train', 'val')


def ensure_scenes(data: DataOptions) -> None:
    """Generates and prepares the scenes of `data.scenes` unless they are at `data.path`."""
    if not data.scenes.num_train:
        return
    # Only process 0 checks: another process might look after the scenes have been written.
    if jax.process_index() == 0 and not all(
        is_complete(make_path(data.path) / split) for split in _SPLITS
    ):
        _make_scenes(data)
    wait_for_all('the scenes are there')


def _make_scenes(data: DataOptions) -> None:
    scenes = data.scenes
    with contextlib.ExitStack() as stack:
        raw = data.path.rstrip('/') + '_raw'
        if is_remote(data.path):
            folder = tempfile.TemporaryDirectory(prefix='pdl_jax_scenes_')
            raw = stack.enter_context(folder)
        if scenes.kind == 'classes':
            _prepare_classes(scenes, raw, data.path)
            return
        write_scenes(
            raw,
            num_train=scenes.num_train,
            num_val=scenes.num_eval,
            height_px=scenes.height_px,
            width_px=scenes.width_px,
            seed=scenes.seed,
        )
        for split in _SPLITS:
            prepare_panoptic_folder(
                images_dir=os.path.join(raw, split, 'images'),
                panoptic_dir=os.path.join(raw, split, f'panoptic_{split}'),
                json_path=os.path.join(raw, split, f'panoptic_{split}.json'),
                out_dir=data.path,
                split=split,
            )


def _prepare_classes(scenes: ScenesOptions, raw: str, path: str) -> None:
    write_classes(
        raw,
        num_train=scenes.num_train,
        num_val=scenes.num_eval,
        side_px=scenes.height_px,
        seed=scenes.seed,
    )
    for split in _SPLITS:
        prepare_split(image_folder.read_split(raw, split), out_dir=path, split=split)
