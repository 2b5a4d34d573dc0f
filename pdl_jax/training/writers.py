"""Writers of a run's numbers and pictures: console, metrics.jsonl, TensorBoard files, PNGs.

    WORKDIR/metrics.jsonl                     one JSON object per line: {"step": 100, "loss": 1.2}
    WORKDIR/tensorboard/                      tensorboard --logdir=WORKDIR/tensorboard
    WORKDIR/pictures/step_00000100/NAME.png   the pictures of `write_images`

TensorBoard files are made of tensorboardX's records, so nothing here needs TensorFlow. All of it
works on gs:// too. An object store cannot append: there metrics.jsonl is rewritten whole, which is
cheap since it is small, and event files are copied now and then.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tqdm
from absl import logging
from etils import epath

from pdl_jax.data.images import encode_image
from pdl_jax.runtime.progress import format_duration
from pdl_jax.storage.paths import (
    append_whole,
    explain_bucket_errors,
    is_remote,
    make_path,
    write_whole,
)
from pdl_jax.training.event_files import EventFiles


class MetricWriter(Protocol):
    """The places that the training loop writes to."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers; with a 'loss' they are a train step's and get its rates added."""

    def show_progress(self, step: int, loss: float | None) -> None:
        """Moves the progress bar of a terminal to a step; the loss may be an earlier one."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes u8[H, W, 3] pictures."""

    def write_text(self, step: int, name: str, text: str) -> None:
        """Writes a text, such as the configuration."""

    def flush(self) -> None:
        """Sends what was written so far to a bucket; local files are always up to date."""

    def close(self) -> None:
        """Flushes and lets go of all files; to be called once, at the end."""


def make_writer(
    workdir: str | os.PathLike,
    *,
    total_steps: int,
    initial_step: int,
    batch_size: int | None = None,
    is_main_process: bool = True,
    trackers: Sequence[MetricWriter] = (),
) -> MetricWriter:
    """Makes the writer of a run.

    What a killed run wrote beyond `initial_step` is dropped, since those steps are done again.

    Args:
      workdir: local or gs://; created if it is missing.
      total_steps: steps of the whole run, for the progress bar and the time left.
      initial_step: steps that are done already; 0 for a new run.
      batch_size: images per step over all processes; None writes no image rate.
      is_main_process: the writer of any other process writes nothing.
      trackers: further places, which raise no errors; see `trackers.make_trackers`.

    Raises:
      ImportError: `workdir` is on gs:// and gcsfs is missing.
    """
    if not is_main_process:
        return _SilentWriter()
    workdir = make_path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    clock = _Clock(total_steps=total_steps, initial_step=initial_step, batch_size=batch_size)
    return _RunWriter(
        clock,
        _Console(total_steps=total_steps, initial_step=initial_step),
        _JsonLines(workdir / 'metrics.jsonl', initial_step),
        EventFiles(workdir / 'tensorboard', initial_step),
        workdir / 'pictures',
        trackers,
    )


def truncate_after(path: str | os.PathLike, step: int) -> list[str]:
    """Drops lines of a metrics.jsonl with a later step, and those that a kill left half written.

    The file is replaced at once, so a run killed here loses nothing.

    Args:
      path: the file; if it is missing, nothing happens.
      step: the last step to keep.

    Returns:
      The lines that the file holds now.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    # A machine that lost power may leave bytes that are no text.
    text = path.read_bytes().decode(errors='replace')
    lines = [line for line in text.splitlines() if _is_kept(line, step)]
    kept = ''.join(f'{line}\n' for line in lines)
    if kept != text:
        logging.info(
            '%s: dropped %d line(s) after step %d', path, len(text.splitlines()) - len(lines), step
        )
        write_whole(path, kept.encode())
    return lines


def _is_kept(line: str, step: int) -> bool:
    try:
        return json.loads(line)['step'] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


class _RunWriter:
    """Hands everything to all places."""

    def __init__(
        self,
        clock: '_Clock',
        console: '_Console',
        json_lines: '_JsonLines',
        event_files: EventFiles,
        pictures: epath.Path,
        trackers: Sequence[MetricWriter],
    ):
        self._clock, self._console = clock, console
        self._json_lines, self._event_files = json_lines, event_files
        self._pictures, self._trackers = pictures, trackers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        scalars = {key: float(value) for key, value in scalars.items()}
        rates = {}
        if 'loss' in scalars:
            rates = self._clock.measure(step)
        else:
            # Evaluation took the time since the last train step: it is no part of the next ones.
            self._clock.restart(step)
        self._console.write(step, scalars, rates, self._clock.seconds_left(step))
        for tracker in self._trackers:
            tracker.write_scalars(step, scalars | rates)
        errors = []
        for write in (self._json_lines.write, self._event_files.write_scalars):
            # One place that is full must not keep the numbers from the other.
            try:
                write(step, scalars | rates)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def show_progress(self, step: int, loss: float | None) -> None:
        self._console.show_progress(step, loss)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for tracker in self._trackers:
            tracker.write_images(step, images)
        folder = self._pictures / f'step_{step:08d}'
        with explain_bucket_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            write_whole(folder / f'{name.replace("/", "_")}.png', encode_image(image))
            self._event_files.write_image(step, name, image)

    def write_text(self, step: int, name: str, text: str) -> None:
        self._event_files.write_text(step, name, text)

    def flush(self) -> None:
        self._event_files.flush()

    def close(self) -> None:
        self._console.close()
        self._event_files.close()
        for tracker in self._trackers:
            tracker.close()


class _SilentWriter:
    """Writes nothing."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        pass

    def show_progress(self, step: int, loss: float | None) -> None:
        pass

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        pass

    def write_text(self, step: int, name: str, text: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Clock:
    """Measures steps between two logs."""

    def __init__(self, *, total_steps: int, initial_step: int, batch_size: int | None):
        self._total_steps, self._batch_size = total_steps, batch_size
        self._seconds_per_step: float | None = None
        self.restart(initial_step)

    def restart(self, step: int) -> None:
        self._last_step, self._last_time = step, time.monotonic()

    def measure(self, step: int) -> dict[str, float]:
        """Computes rates since the last log; none if no step was done since."""
        num_steps = step - self._last_step
        seconds = time.monotonic() - self._last_time
        self.restart(step)
        if num_steps <= 0 or seconds <= 0:
            return {}
        self._seconds_per_step = seconds / num_steps
        rates = {'step_seconds': seconds / num_steps}
        if self._batch_size:
            rates['images_per_second'] = num_steps * self._batch_size / seconds
        return rates

    def seconds_left(self, step: int) -> float | None:
        if self._seconds_per_step is None:
            return None
        return max(self._total_steps - step, 0) * self._seconds_per_step


class _Console:
    """One log line per call, and on a terminal a progress bar below."""

    def __init__(self, *, total_steps: int, initial_step: int):
        self._total_steps = total_steps
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps, initial=initial_step, unit='step', leave=False, mininterval=0.2
            )

    def write(
        self,
        step: int,
        scalars: dict[str, float],
        rates: dict[str, float],
        seconds_left: float | None,
    ) -> None:
        left = ''
        if rates and seconds_left is not None:
            left = f' (ETA {format_duration(seconds_left)})'
        # The numbers of each class, such as eval/pq/car, would fill the screen.
        shown = {key: value for key, value in (scalars | rates).items() if key.count('/') < 2}
        values = ', '.join(f'{key} {value:.4g}' for key, value in shown.items())
        # Clear the bar while the line is logged, so that the two do not run into each other.
        quiet = (
            tqdm.tqdm.external_write_mode(file=sys.stderr)
            if self._bar
            else contextlib.nullcontext()
        )
        with quiet:
            logging.info('step %d/%d%s: %s', step, self._total_steps, left, values)

    def show_progress(self, step: int, loss: float | None) -> None:
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix(loss=f'{loss:.4g}', refresh=False)
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _JsonLines:
    """The file metrics.jsonl: one JSON object per line; numbers that are not finite are null."""

    def __init__(self, path: epath.Path, initial_step: int):
        self._path = path
        lines = truncate_after(path, initial_step)
        # Local files are appended to, so only a remote one must be remembered.
        self._lines = lines if is_remote(path) else None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in scalars.items()}
        line = json.dumps({'step': int(step), **finite}, allow_nan=False)
        if self._lines is None:
            append_whole(self._path, f'{line}\n'.encode())
            return
        self._lines.append(line)
        write_whole(self._path, ''.join(f'{line}\n' for line in self._lines).encode())
