"""Videos: frames decoded, predicted, numbered through, drawn and encoded, one at a time."""

import contextlib
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

import numpy as np
from etils import epath

from pdl_jax.data.videos import Frame, VideoReader, VideoWriter, check_video_name
from pdl_jax.prediction.picture_style import PictureStyle
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.tracking import Tracker, TrackOptions
from pdl_jax.runtime.progress import Throughput
from pdl_jax.storage.paths import explain_write_errors, make_path

# Stretching each frame by itself would make a video flicker.
VIDEO_STYLE = PictureStyle(contrast='none', min_side_px=0)


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """A video that was predicted.

    Attributes:
      num_frames: frames that were predicted.
      num_objects: objects that were numbered.
      num_damaged: parts of the file that could not be decoded.
      frames_per_s: rate after the first frame, which waits for compilation.
    """

    num_frames: int
    num_objects: int
    num_damaged: int
    frames_per_s: float


def predict_video(
    predictor: Predictor,
    source: str,
    output: str = '',
    *,
    segments: str = '',
    options: TrackOptions = TrackOptions(),  # noqa: B008 - it is immutable.
    style: PictureStyle = VIDEO_STYLE,
    max_seconds: float = 0.0,
    every: int = 1,
    say: Callable[[str], None] = print,
) -> VideoSummary:
    """Predicts the frames of a video or a camera; memory holds a few frames.

    Args:
      predictor: the network.
      source: see `VideoReader`.
      output: the video of overlays, see `VideoWriter`; '' for none.
      segments: a file with what each frame shows, .jsonl or .csv; '' for none.
      options: the rules of tracking.
      style: colours, contrast and size of pictures.
      max_seconds: time of the video after which it ends; 0 for all of it.
      every: predict each n-th frame only.
      say: called with each line on progress.

    Raises:
      ValueError: the source is no video or damaged, or an output has no name of its kind.
      OSError: the source cannot be opened, or the outputs cannot be written.
      ImportError: PyAV is not installed.
    """
    if every < 1:
        raise ValueError(f'every (={every}) must be at least 1')
    with contextlib.ExitStack() as stack:
        target = make_path(output) if output else None
        if target is not None:
            check_video_name(target)
        table = stack.enter_context(SegmentTable(make_path(segments))) if segments else None
        reader = stack.enter_context(VideoReader(source, predictor.pixels))
        tracker, progress = Tracker(options), Throughput('frames', reader.num_frames // every, say)
        writer = None
        for frame, result in _predict_frames(predictor, reader, max_seconds, every):
            numbers = tracker.update(result)
            if table is not None:
                table.write(progress.count, frame.time_s, result, numbers)
            if target is not None:
                result = renumber(result, numbers)
                picture = dataclasses.replace(result, style=style).draw_overlay()
                if writer is None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    size = picture.shape[0], picture.shape[1]
                    writer = stack.enter_context(VideoWriter(target, size, reader.rate / every))
                writer.write(Frame(frame.time_s, picture))
            progress.add()
        progress.finish()
    return VideoSummary(progress.count, tracker.num_objects, reader.num_damaged, progress.rate)


def renumber(result: PanopticResult, numbers: Mapping[int, int]) -> PanopticResult:
    """Puts the numbers of objects in the place of their instances.

    Args:
      result: the result of a frame.
      numbers: the number of each thing by its label, see `Tracker.update`.

    Returns:
      A result whose labels are class * label_divisor + number; numbers beyond the divisor begin
      again at 1, and those of one frame differ.
    """
    divisor = result.spec.label_divisor
    taken: set[int] = set()
    segments = []
    table = {}
    for segment in result.segments:
        label = segment.label
        if label in numbers:
            instance = 1 + (numbers[label] - 1) % (divisor - 1)
            label = segment.class_id * divisor + instance
            while label in taken:
                instance = 1 + instance % (divisor - 1)
                label = segment.class_id * divisor + instance
            taken.add(label)
        table[segment.label] = label
        segments.append(dataclasses.replace(segment, label=label))
    labels = np.arange(int(result.panoptic.max()) + 1, dtype=result.panoptic.dtype)
    labels[list(table)] = list(table.values())
    panoptic = labels[result.panoptic]
    segments = tuple(sorted(segments, key=lambda s: s.label))
    return dataclasses.replace(result, panoptic=panoptic, segments=segments)


class SegmentTable:
    """A file with a line per frame or segment; use it in a `with` statement.

    A .jsonl file has an object per frame: 'frame', 'time_s' and 'segments' as of
    `PanopticResult.to_json`, where 'id' is the number of an object, 0 for stuff. A .csv file has a
    row per segment.

    Raises:
      ValueError: the name ends otherwise.
      OSError: the file cannot be written.
    """

    _COLUMNS = ('frame', 'time_s', 'id', 'class', 'is_thing', 'score', 'area_px')

    def __init__(self, path: epath.Path) -> None:
        if path.suffix.lower() not in ('.jsonl', '.csv'):
            raise ValueError(f'{path}: the name of a file of segments ends in .jsonl or .csv')
        self._path = path
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, 'w', encoding='utf-8', newline='')
        self._writer = None
        if path.suffix.lower() == '.csv':
            self._writer = csv.writer(self._file, lineterminator='\n')
            self._writer.writerow([*self._COLUMNS, 'y0', 'x0', 'y1', 'x1'])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with explain_write_errors(self._path):
            self._file.close()

    def write(
        self, index: int, time_s: float, result: PanopticResult, numbers: Mapping[int, int]
    ) -> None:
        """Writes a frame.

        Args:
          index: number of the frame, from 0.
          time_s: its time in seconds.
          result: its segments.
          numbers: see `Tracker.update`.
        """
        described = [
            {**values, 'id': numbers.get(values.pop('label'), 0)} for values in result.to_json()
        ]
        with explain_write_errors(self._path):
            if self._writer is None:
                line = {'frame': index, 'time_s': round(time_s, 3), 'segments': described}
                self._file.write(f'{json.dumps(line)}\n')
                return
            for one in described:
                row = [index, f'{time_s:.3f}', one['id'], one['class_name'], int(one['is_thing'])]
                row += [f'{one["score"]:.4f}', one['area_px'], *one['box'].values()]
                self._writer.writerow(row)


def _predict_frames(
    predictor: Predictor, reader: VideoReader, max_seconds: float, every: int
) -> Iterator[tuple[Frame, PanopticResult]]:
    """Predicts frames; the next one is decoded and started while one is drawn."""
    running = None
    for index, frame in enumerate(reader):
        if max_seconds and frame.time_s >= max_seconds:
            break
        if index % every:
            continue
        finish = predictor.start([frame.image])
        if running is not None:
            yield running[0], running[1]()[0]
        running = frame, finish
    if running is not None:
        yield running[0], running[1]()[0]
