"""TensorBoard's event files.

They are written without tensorboardX's thread: an error such as a full disk's would end it, and the
training would then wait for it forever.
"""

import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from pdl_jax.storage.paths import append_whole, explain_bucket_errors, is_remote, write_whole

# Event files on gs:// are copied at most this often; `flush` and `close` always copy them.
_COPY_EVERY_SECONDS = 60.0


class EventFiles:
    """The event file of one start of a run.

    On gs:// it is written to a temporary folder and copied now and then, without pictures, which
    would make every copy long.

    Args:
      folder: where the event files of the run lie, local or gs://; made if it is missing.
      initial_step: TensorBoard hides what earlier files hold of later steps.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(self, folder: epath.Path, initial_step: int):
        # It imports PyTorch if that is installed, which takes a second.
        import tensorboardX.summary
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._summary, self._checksum = tensorboardX.summary, masked_crc32c
        # Its classes are made when it is imported.
        protos: Any = event_pb2
        self._make_event = protos.Event
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        local = folder
        if is_remote(folder):
            self._temporary = tempfile.TemporaryDirectory(prefix='pdl_jax_tensorboard_')
            self._last_copy = time.monotonic()
            local = epath.Path(self._temporary.name)
        local.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}'
        self._path = local / name
        start = protos.SessionLog(status=protos.SessionLog.START)
        now, version, step = time.time(), 'brain.Event:2', initial_step + 1
        self._write(
            protos.Event(wall_time=now, file_version=version),
            protos.Event(wall_time=now, step=step, file_version=version),
            protos.Event(wall_time=now, step=step, session_log=start),
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers.

        Raises:
          OSError: the file cannot be written; it is as it was before.
        """
        self._write_summaries(
            step, *(self._summary.scalar(key, value) for key, value in scalars.items())
        )
        if self._temporary is not None and time.monotonic() - self._last_copy > _COPY_EVERY_SECONDS:
            self.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture u8[H, W, 3]; raises OSError as `write_scalars` does."""
        if self._temporary is None:
            self._write_summaries(step, self._summary.image(name, image, dataformats='HWC'))

    def write_text(self, step: int, name: str, text: str) -> None:
        """Writes a text; raises OSError as `write_scalars` does."""
        # Markdown keeps lines that are indented by four spaces as they are, whatever they hold.
        indented = ''.join(f'    {line}\n' for line in text.splitlines())
        self._write_summaries(step, self._summary.text(name, indented))

    def flush(self) -> None:
        """Copies the file to its bucket; a local one is always up to date.

        Raises:
          OSError: the bucket fails.
        """
        if self._temporary is None:
            return
        with explain_bucket_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / self._path.name, self._path.read_bytes())
        self._last_copy = time.monotonic()

    def close(self) -> None:
        """Flushes; no error of the bucket may hide the one that ended the run."""
        try:
            self.flush()
        except OSError as error:
            logging.warning('the event files are incomplete: %s', error)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _write_summaries(self, step: int, *summaries: Any) -> None:
        now = time.time()
        self._write(
            *(self._make_event(wall_time=now, step=int(step), summary=s) for s in summaries)
        )

    def _write(self, *events: Any) -> None:
        """Appends records: a length and the data, each with its checksum."""
        records = []
        for event in events:
            data = event.SerializeToString()
            length = struct.pack('<Q', len(data))
            for part in (length, data):
                records += [part, struct.pack('<I', self._checksum(part))]
        append_whole(self._path, b''.join(records))
