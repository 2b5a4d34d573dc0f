"""A tiny dataset and configuration that train in seconds; shared by the end-to-end tests."""

import os
import pathlib
import subprocess
import sys

import jax
from ml_collections import ConfigDict

from pdl_jax.commands.config_file import load_config
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.scenes import dataset as scenes
from pdl_jax.experiment import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[1]


def prepare_scenes(folder: pathlib.Path) -> pathlib.Path:
    """Renders and prepares 12 + 5 scenes of 48x64 pixels."""
    raw = folder / 'raw'
    scenes.write_scenes(raw, num_train=12, num_val=5, height_px=48, width_px=64, num_processes=1)
    for split in ('train', 'val'):
        prepare_panoptic_folder(
            images_dir=raw / split / 'images',
            panoptic_dir=raw / split / f'panoptic_{split}',
            json_path=raw / split / f'panoptic_{split}.json',
            out_dir=folder / 'data',
            split=split,
            num_processes=0,
        )
    return folder / 'data'


def overrides(data: pathlib.Path) -> dict:
    """Fields that make configs/scenes.py tiny."""
    return {
        'data.path': str(data),
        'data.scenes.num_train': 0,
        'model.width_multiplier': 0.35,
        'model.semantic_features': 8,
        'model.semantic_low_level_features': (8, 8),
        'model.semantic_aspp_features': 8,
        'model.semantic_head_features': 8,
        'model.instance_features': 8,
        'model.instance_low_level_features': (8, 8),
        'model.instance_aspp_features': 8,
        'model.instance_head_features': 8,
        'augment.crop_height_px': 33,
        'augment.crop_width_px': 33,
        'optimizer.learning_rate': 1e-3,
        'optimizer.warmup_steps': 0,
        'targets.max_instances': 16,
        'train.batch_size': 8,
        'train.num_steps': 6,
        'train.log_every_steps': 1,
        'train.picture_every_steps': 0,
        'train.checkpoint_every_steps': 2,
        'train.evaluate_every_steps': 0,
        'train.keep_checkpoints': 2,
        'evaluate.batch_size': 4,
        'postprocess.max_centers': 16,
    }


def one_device() -> list[jax.Device]:
    """The first of the simulated devices: programs for it compile faster."""
    return jax.devices()[:1]


def make_config(data: pathlib.Path, **changes) -> ConfigDict:
    """configs/scenes.py with `overrides` and `changes` (dots in names as double underscores)."""
    config = load_config('scenes')
    fields = {**overrides(data), **{k.replace('__', '.'): v for k, v in changes.items()}}
    config.update_from_flattened_dict(fields)
    return config


def make_experiment(data: pathlib.Path, **changes) -> Experiment:
    """The experiment of `make_config`."""
    return Experiment.from_config(make_config(data, **changes))


def start_main(
    data: pathlib.Path,
    workdir: pathlib.Path,
    *flags: str,
    max_file_kib: int = 0,
    program: str = 'pdl_jax.main',
    environment: dict[str, str] | None = None,
    output=subprocess.PIPE,
) -> subprocess.Popen:
    """Starts `python -m pdl_jax.main` on the tiny configuration.

    Args:
      data: of `prepare_scenes`.
      workdir: of the run.
      flags: more of them.
      max_file_kib: the kernel refuses to write larger files, as a full disk would; 0 sets no limit.
      program: the module to run.
      environment: variables to set for this process.
      output: a file for what it prints; by default a pipe.
    """
    # A tuple that is given twice is joined, so what the flags set is left out before them.
    given = {flag.partition('=')[0].removeprefix('--config.') for flag in flags}
    fields = [
        f'--config.{key}={value}' for key, value in overrides(data).items() if key not in given
    ]
    command = [sys.executable, '-m', program, '--config=configs/scenes.py', f'--workdir={workdir}']
    if max_file_kib:
        command = ['bash', '-c', f'ulimit -f {max_file_kib}; exec "$@"', 'bash', *command]
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': os.environ.get(
            'PDL_JAX_TEST_CACHE', '/tmp/pdl_jax_test_cache'
        ),
        **(environment or {}),
    }
    return subprocess.Popen(
        [*command, *fields, *flags],
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
