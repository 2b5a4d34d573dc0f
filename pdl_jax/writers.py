"""Where a run's numbers and pictures go: console, metrics.jsonl, TensorBoard files and PNGs."""

import json
import math
import sys
import time
from typing import Any

import numpy as np
import tqdm
from absl import logging
from etils import epath
from tensorboardX import SummaryWriter

from pdl_jax.data.images import encode_image


class MetricWriter:
    """Writes scalars and pictures of a run to everything that shows them.

    Args:
      workdir: local or gs://. TensorBoard files are written to local workdirs only.
      total_steps: of the run, for the progress bar and the remaining time.
      initial_step: finished steps; what a killed run logged beyond them is dropped, since it will be logged again.
      batch_size: images of a step.
    """

    def __init__(self, workdir: str, *, total_steps: int, initial_step: int, batch_size: int):
        self._workdir = epath.Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._last = initial_step, time.monotonic()
        self._jsonl = self._workdir / 'metrics.jsonl'
        self._lines = read_lines_until(self._jsonl, initial_step)
        self._is_local = '://' not in str(workdir)
        self._write_lines('w', self._lines)
        self._tensorboard = None
        if self._is_local:
            # purge_step hides what a killed run wrote beyond its last checkpoint.
            self._tensorboard = SummaryWriter(str(self._workdir / 'tensorboard'), purge_step=initial_step + 1)
        self._bar = tqdm.tqdm(
            total=total_steps, initial=initial_step, unit='step', disable=not sys.stderr.isatty()
        )

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Writes finite and other numbers; adds images_per_second, step_seconds and the time left at train steps."""
        scalars = {key: float(value) for key, value in scalars.items()}
        last_step, last_time = self._last
        if 'loss' in scalars and step > last_step:
            now = time.monotonic()
            seconds = (now - last_time) / (step - last_step)
            self._last = step, now
            scalars['step_seconds'] = seconds
            scalars['images_per_second'] = self._batch_size / seconds
        values = ', '.join(f'{key} {value:.4g}' for key, value in scalars.items())
        left = ''
        if 'step_seconds' in scalars:
            left = f' (ETA {format_duration((self._total_steps - step) * scalars["step_seconds"])})'
        self._bar.update(step - self._bar.n)
        with _logging_above(self._bar):
            logging.info('step %d/%d%s: %s', step, self._total_steps, left, values)
        line = {'step': step, **{k: v if math.isfinite(v) else None for k, v in scalars.items()}}
        self._lines.append(json.dumps(line))
        # An object store cannot append; the file stays small, so it is written whole.
        self._write_lines(*(('a', self._lines[-1:]) if self._is_local else ('w', self._lines)))
        if self._tensorboard is not None:
            for key, value in scalars.items():
                self._tensorboard.add_scalar(key, value, step)
            self._tensorboard.flush()

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Writes u8[H, W, 3] pictures to TensorBoard and to workdir/pictures/STEP/NAME.png."""
        folder = self._workdir / 'pictures' / f'{step:08d}'
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (folder / f'{name}.png').write_bytes(encode_image(image))
            if self._tensorboard is not None:
                self._tensorboard.add_image(name, image, step, dataformats='HWC')

    def write_text(self, step: int, name: str, text: str) -> None:
        """Writes a text to TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.add_text(name, f'```\n{text}\n```', step)

    def close(self) -> None:
        """Flushes and closes all files."""
        self._bar.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _write_lines(self, mode, lines):
        with self._jsonl.open(mode) as file:
            file.write(''.join(line + '\n' for line in lines))


class SilentWriter:
    """The writer of all processes but the first: writes nothing."""

    def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
        """Does nothing."""

    def write_images(self, step: int, images: dict[str, Any]) -> None:
        """Does nothing."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def make_writer(workdir: str, *, is_main_process: bool = True, **arguments) -> MetricWriter | SilentWriter:
    """A `MetricWriter` on the main process, a silent one on the others."""
    return MetricWriter(workdir, **arguments) if is_main_process else SilentWriter()


def read_lines_until(path: epath.Path, step: int) -> list[str]:
    """The lines of a metrics.jsonl up to `step`; half-written lines of a killed run are left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            is_kept = json.loads(line)['step'] <= step
        except (ValueError, KeyError, TypeError):
            continue
        if is_kept:
            lines.append(line)
    return lines


def format_duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


class _logging_above:  # noqa: N801 - reads as a statement.
    """Clears a progress bar while a line is logged, so that the two do not run into each other."""

    def __init__(self, bar):
        self._bar = bar

    def __enter__(self):
        if not self._bar.disable:
            self._bar.clear()

    def __exit__(self, *_):
        if not self._bar.disable:
            self._bar.refresh()
