"""Videos and cameras as streams of frames, and videos written, by PyAV (the extra `video`)."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from etils import epath

from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import explain_write_errors, is_remote

# Frames of 7680x4320 pixels have fewer.
MAX_FRAME_PIXELS = 2**25
# Formats of files with frames in them; playlists, which name other files and addresses, are none.
_FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif,apng'
# Format and name of a camera by platform.
_CAMERAS = {'linux': ('v4l2', '/dev/video{}'), 'darwin': ('avfoundation', '{}')}
# Encoders by preference: H.264 needs a library, the other is always there.
_ENCODERS = {'libx264': {'preset': 'veryfast', 'crf': '20'}, 'mpeg4': {}}
# Bits per pixel of encoders without a quality.
_BITS = 0.2
# The rates of cinema and of both televisions divide it, and MPEG-4 takes no finer one.
_TIME_BASE = Fraction(1, 60000)
# Longest time between two frames.
_MAX_STEP_S = 3600.0
# Frames that cannot be decoded in a row.
_MAX_DAMAGED = 300


class Frame(NamedTuple):
    """A picture of a video.

    Attributes:
      time_s: seconds since its beginning.
      image: u8[H, W, C].
    """

    time_s: float
    image: np.ndarray


class VideoReader:
    """The frames of a video file or of a camera, decoded one by one; use it in a `with` statement.

    Args:
      source: a file, or 'camera' or 'camera:1' for a camera of this machine.
      pixels: number of channels, 3 or 1.

    Attributes:
      size: (height, width) in pixels as stored.
      rate: frames per second, about.
      num_frames: number of frames, about; 0 if it is not known.
      num_damaged: parts that could not be decoded so far.

    Raises:
      ValueError: the file is no video, or has too large frames; the message names it.
      OSError: the file or the camera cannot be opened.
      ImportError: PyAV is not installed.
    """

    def __init__(
        self,
        source: str,
        pixels: PixelFormat = PixelFormat(),  # noqa: B008 - it is immutable.
    ) -> None:
        if pixels.num_channels not in (1, 3):
            raise ValueError(
                f'videos have 3 channels or 1, and the network takes {pixels.num_channels}'
            )
        self._format = 'rgb24' if pixels.num_channels == 3 else 'gray'
        self._av = import_av()
        self._name = source
        self._stack = contextlib.ExitStack()
        try:
            self._open(source)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, source: str) -> None:
        with self._explain('not a readable video'):
            self._container = self._stack.enter_context(self._open_container(source))
        if not self._container.streams.video:
            raise ValueError(f'{source} has no pictures: give a video')
        self._stream = self._container.streams.video[0]
        context = self._stream.codec_context
        if context is None:
            raise ValueError(f'{source} is coded in a way that PyAV does not know: convert it')
        height, width = context.height, context.width
        if not 0 < height * width <= MAX_FRAME_PIXELS:
            raise ValueError(
                f'{source}: frames of {height}x{width} pixels, the limit is {MAX_FRAME_PIXELS}: '
                f'shrink the video'
            )
        # Later frames may be larger than the header says.
        context.options = {'max_pixels': str(MAX_FRAME_PIXELS)}
        self._stream.thread_type = 'AUTO'
        self.size = (height, width)
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.rate = Fraction(min(max(rate, Fraction(1, 10)), Fraction(1000)))
        seconds = 0.0
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / 1e6
        self.num_frames = max(0, self._stream.frames or round(seconds * self.rate))
        self.num_damaged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames, upright; what is damaged is left out.

        Raises:
          ValueError: nothing can be decoded, or the frames change their size; the message names the
            file.
        """
        size, first, last = None, None, -1.0
        for frame in self._decode():
            with self._explain('a frame cannot be decoded'):
                image = frame.to_ndarray(format=self._format)
            image = image if image.ndim == 3 else image[..., None]
            # Phones store pictures as the sensor lies.
            image = np.rot90(image, round(getattr(frame, 'rotation', 0) / 90) % 4)
            size = size or image.shape
            if image.shape != size:
                raise ValueError(
                    f'{self._name}: frames change from {size[0]}x{size[1]} to {image.shape[0]}x'
                    f'{image.shape[1]} pixels: cut the video there'
                )
            # Cameras count from the start of the machine.
            first = frame.time if first is None else first
            last = self._find_time(frame.time, first, last)
            yield Frame(last, np.ascontiguousarray(image))
        if size is None:
            raise ValueError(f'{self._name} has no frame that can be decoded: it is damaged')

    def _find_time(self, time: float | None, first: float | None, last: float) -> float:
        """Returns the seconds of a frame since the first; those of damaged files may jump."""
        step = float(1 / self.rate)
        if last < 0:
            return 0.0
        if time is None or first is None or not last < time - first <= last + _MAX_STEP_S:
            return last + step
        return time - first

    def _decode(self) -> Iterator[Any]:
        num_in_a_row = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
                num_in_a_row = 0 if frames else num_in_a_row
            except (self._av.error.FFmpegError, ValueError, RuntimeError):
                # A file that is cut off, or a few bad bytes.
                self.num_damaged += 1
                num_in_a_row += 1
                if num_in_a_row > _MAX_DAMAGED:
                    return
                continue
            yield from frames

    def _open_container(self, source: str) -> Any:
        match = re.fullmatch(r'camera(?::(\d+))?', source)
        if match:
            if sys.platform not in _CAMERAS:
                raise ValueError(f'cameras are not read on {sys.platform}: record a file')
            kind, name = _CAMERAS[sys.platform]
            return self._av.open(name.format(match[1] or 0), format=kind)
        if is_remote(source):
            raise ValueError(f'{source}: videos are read from local files: copy it first')
        path = os.path.expanduser(source)
        refuse_irregular(path)
        # No name reaches the library, so that no other file or address is opened beside it.
        file = self._stack.enter_context(open(path, 'rb'))
        options = {'format_whitelist': _FORMATS, 'protocol_whitelist': 'none'}
        return self._av.open(file, options=options)

    @contextlib.contextmanager
    def _explain(self, what: str) -> Iterator[None]:
        """Turns errors of the library into one that names the source."""
        try:
            yield
        except (self._av.error.FFmpegError, OSError) as error:
            # A missing file or camera is told by its own message.
            if isinstance(error, OSError) and error.filename:
                raise
            # Damaged files lead to reads at places that no file has.
            raise ValueError(f'{self._name}: {what}: {error.strerror or error}') from error


class VideoWriter:
    """Writes a video, H.264 if it can, else MPEG-4; use it in a `with` statement.

    The file appears when it is complete. Its kind follows the name: .mp4, .mkv or .mov.

    Args:
      path: the file, local.
      size: (height, width) of the frames in pixels; odd ones get one more row or column.
      rate: frames per second, about.

    Raises:
      ValueError: the name has no such end.
      OSError: the file cannot be written.
      ImportError: PyAV is not installed.
    """

    def __init__(self, path: epath.Path, size: tuple[int, int], rate: Fraction) -> None:
        check_video_name(path)
        av = import_av()
        self._path = path
        name = f'.{path.stem}.{os.getpid()}.partial{path.suffix}'
        self._partial = path.parent / name
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._av = av
        with explain_write_errors(path):
            self._container = av.open(os.fspath(self._partial), 'w')
        name = next(name for name in _ENCODERS if name in av.codecs_available)
        self._stream: Any = self._container.add_stream(name, rate=rate, options=_ENCODERS[name])
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.time_base = _TIME_BASE
        if not _ENCODERS[name]:
            self._stream.bit_rate = int(_BITS * size[0] * size[1] * rate)
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A video that was interrupted by the user is one too.
            if error is None or isinstance(error, KeyboardInterrupt):
                with explain_write_errors(self._path):
                    if self._last >= 0:
                        self._container.mux(self._stream.encode(None))
                    self._container.close()
                    self._partial.replace(self._path)
        finally:
            self._container.close()
            self._partial.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """Writes u8[H, W, 3], the next frame, at its time.

        Raises:
          OSError: the disk is full.
        """
        image = frame.image
        missing = [(0, n - m) for n, m in zip(self._size, image.shape[:2], strict=True)]
        image = np.pad(image, (*missing, (0, 0)), mode='edge')
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
        self._last = max(self._last + 1, round(frame.time_s / _TIME_BASE))
        picture.pts, picture.time_base = self._last, _TIME_BASE
        with explain_write_errors(self._path):
            self._container.mux(self._stream.encode(picture))


def check_video_name(path: epath.Path) -> None:
    """Checks the end of a name.

    Raises:
      ValueError: it tells no kind of video that is written, or lies in a bucket.
    """
    suffixes = ('.mp4', '.mkv', '.mov')
    if path.suffix.lower() not in suffixes:
        raise ValueError(f'{path}: the name of a video ends in {", ".join(suffixes)}')
    if is_remote(path):
        raise ValueError(f'{path}: videos are written to local folders')


def import_av() -> ModuleType:
    """Imports PyAV.

    Raises:
      ImportError: it is not installed; the message names the extra.
    """
    try:
        av = importlib.import_module('av')
        logging = importlib.import_module('av.logging')
    except ImportError as error:
        raise ImportError("videos need PyAV: pip install 'pdl_jax[video]', or av") from error
    # Damage is reported by exceptions.
    logging.set_level(logging.PANIC)
    return av
