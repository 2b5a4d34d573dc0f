"""The segments of one image: label map, list, masks, pictures, and files of all of these."""

import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.images import encode_image, show_channels
from pdl_jax.prediction.formats import encode_segments, encode_semantic
from pdl_jax.storage.paths import explain_bucket_errors, make_path, write_whole
from pdl_jax.systems.drawing.colors import color_panoptic
from pdl_jax.systems.drawing.overlay import overlay_panoptic
from pdl_jax.typing import LabelFormat, suggest

# Files that a result can be written as, by kind: the end of their names.
_ENDINGS = {
    'overlay': '_overlay.png',
    'ids': '_panoptic.png',
    'color': '_color.png',
    'csv': '.csv',
    'json': '.json',
}
KINDS = tuple(_ENDINGS)
DEFAULT_KINDS = ('overlay', 'ids', 'json')
# Kinds by the suffix of a single file.
_SUFFIXES = {'.png': 'overlay', '.csv': 'csv', '.json': 'json'}


class Box(NamedTuple):
    """The smallest box around a segment in pixels, ends exclusive."""

    y0: int
    x0: int
    y1: int
    x1: int


class Point(NamedTuple):
    """A place in an image in pixels; the centre of the first pixel is (0, 0)."""

    y: float
    x: float


@dataclasses.dataclass(frozen=True)
class Segment:
    """One stuff region or one object; for a semantic network, all pixels of one class.

    Attributes:
      label: value in the panoptic map.
      class_id: semantic class of the network.
      class_name: name of the class.
      category_id: id of the class in the annotation file that the network was trained with.
      is_thing: whether it is a single object.
      score: confidence in [0, 1].
      area_px: number of pixels.
      centroid: mean position of its pixels.
      box: the box around it.
    """

    label: int
    class_id: int
    class_name: str
    category_id: int
    is_thing: bool
    score: float
    area_px: int
    centroid: Point
    box: Box


@dataclasses.dataclass(frozen=True, repr=False)
class PanopticResult:
    """The label map and the segments of one image.

    Attributes:
      panoptic: i32[H, W], semantic * label_divisor + instance at the size of the image.
      segments: all segments but void, ascending by label.
      spec: the classes and the meaning of labels.
      is_semantic: true if the network predicts classes only; then no label has an instance.
      image: u8[H, W, C], the image that was predicted, if known.
      name: file name of the image, '' if it was no file.
      postprocess: the options that decided on the segments, such as 'min_score'.
    """

    panoptic: np.ndarray
    segments: tuple[Segment, ...]
    spec: DatasetSpec
    is_semantic: bool = False
    image: np.ndarray | None = None
    name: str = ''
    postprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.panoptic.shape
        return f'PanopticResult({height}x{width}: {self.summary})'

    @property
    def summary(self) -> str:
        """Counts of things and names of stuff, such as '24 nucleus, 3 person; background'."""
        things = Counter(s.class_name for s in self.segments if s.is_thing)
        stuff = ', '.join(s.class_name for s in self.segments if not s.is_thing)
        if self.is_semantic:
            return stuff or 'nothing'
        counts = ', '.join(f'{count} {name}' for name, count in things.most_common())
        return f'{counts or "no things"}; {stuff}' if stuff else counts or 'no things'

    @property
    def masks(self) -> np.ndarray:
        """The pixels of each segment, bool[S, H, W] in the order of `segments`; made anew."""
        labels = np.array([segment.label for segment in self.segments], np.int32)
        return self.panoptic == labels[:, None, None]

    def draw_overlay(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draws coloured segments, outlines and class names; u8[H, W, 3].

        Args:
          image: u8[H, W, C], by default the one that was predicted. Of other than three channels
            the first ones are shown, see `images.show_channels`.

        Raises:
          ValueError: there is no image, or it has another size.
        """
        image = self.image if image is None else image
        if image is None:
            raise ValueError('this result does not know its image: give it to draw_overlay')
        return overlay_panoptic(
            show_channels(image),
            self.panoptic,
            self._drawn_format,
            class_names=self.spec.class_names,
            colors=self.spec.make_palette(),
            scores={segment.label: segment.score for segment in self.segments},
        )

    def draw_color(self) -> np.ndarray:
        """Draws the segments in the colours of the overlay alone, u8[H, W, 3]; void is black."""
        return color_panoptic(self.panoptic, self._drawn_format, self.spec.make_palette())

    def to_png(self) -> bytes:
        """Encodes a PNG in which segment i has the id i + 1 as R + 256 G + 65536 B, and void is 0.

        For a semantic network it holds class indices, see `formats.encode_semantic`.
        """
        if self.is_semantic:
            return encode_semantic(self.panoptic // self.spec.label_divisor, self.spec)
        return encode_segments(self.panoptic, [{'label': s.label} for s in self.segments])

    def to_json(self) -> list[dict[str, Any]]:
        """Lists the segments as JSON values; 'id' is that of a panoptic `to_png`.

        'centroid' is {'y', 'x'} and 'box' {'y0', 'x0', 'y1', 'x1'}, in pixels.
        """
        return [
            {
                'id': i,
                **dataclasses.asdict(segment),
                'centroid': _round_point(segment.centroid)._asdict(),
                'box': segment.box._asdict(),
            }
            for i, segment in enumerate(self.segments, 1)
        ]

    def to_csv(self) -> str:
        """Writes a table with a row per segment; 'id' is that of a panoptic `to_png`."""
        columns = ('image', 'id', 'class', 'category_id', 'is_thing', 'score', 'area_px')
        file = io.StringIO()
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*columns, 'centroid_y', 'centroid_x', *Box._fields])
        for i, s in enumerate(self.segments, 1):
            row = [self.name, i, s.class_name, s.category_id, int(s.is_thing), f'{s.score:.4f}']
            writer.writerow([*row, s.area_px, *_round_point(s.centroid), *s.box])
        return file.getvalue()

    def encode(self, kind: str) -> bytes:
        """Encodes the file of a kind, see `KINDS`.

        Raises:
          ValueError: there is no such kind, or an overlay has no image.
        """
        check_kinds([kind])
        if kind == 'ids':
            return self.to_png()
        if kind == 'csv':
            # Spreadsheet programs take a file without this mark for one in an older encoding.
            return self.to_csv().encode('utf-8-sig', errors='surrogateescape')
        if kind == 'json':
            height, width = self.panoptic.shape
            description = {'file_name': self.name, 'height': height, 'width': width}
            description |= {'postprocess': dict(self.postprocess), 'segments': self.to_json()}
            return json.dumps(description, indent=1).encode()
        return encode_image(self.draw_overlay() if kind == 'overlay' else self.draw_color())

    def save(
        self, path: str | os.PathLike, kinds: Sequence[str] = DEFAULT_KINDS
    ) -> list[epath.Path]:
        """Writes files.

            result.save('out')           out/NAME_overlay.png, out/NAME_panoptic.png, out/NAME.json
            result.save('cells.png')     the overlay alone; .csv and .json are the table and list

        Args:
          path: a folder, made if it is missing, or a file that ends in .png, .csv or .json. NAME is
            that of the image's file, or 'image'.
          kinds: files to write to a folder, see `KINDS`.

        Returns:
          The files.

        Raises:
          OSError: a file cannot be written.
          ValueError: there is no such kind, or an overlay has no image.
        """
        target = make_path(path)
        kind = _SUFFIXES.get(target.suffix.lower())
        if kind is None or target.is_dir():
            stem = os.path.splitext(self.name)[0] or 'image'
            return write_result(self, target, stem, kinds)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, self.encode(kind))
        return [target]

    @property
    def _drawn_format(self) -> LabelFormat:
        label_format = self.spec.label_format
        if self.is_semantic:
            # Things without an instance would be drawn as crowds.
            return dataclasses.replace(label_format, thing_classes=())
        return label_format


def check_kinds(kinds: Sequence[str]) -> None:
    """Checks kinds of files.

    Raises:
      ValueError: names the first unknown one.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(
                f'there is no output {kind!r}; {suggest(kind, KINDS)}choose among '
                f'{", ".join(KINDS)}'
            )


def name_file(stem: str, kind: str, *, is_semantic: bool = False) -> str:
    """Returns the name of the file of a kind."""
    if kind == 'ids' and is_semantic:
        return f'{stem}_semantic.png'
    return f'{stem}{_ENDINGS[kind]}'


def write_result(
    result: PanopticResult, folder: epath.Path, stem: str, kinds: Sequence[str]
) -> list[epath.Path]:
    """Writes the files of a result into a folder, see `PanopticResult.save`."""
    check_kinds(kinds)
    written = []
    with explain_bucket_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The JSON comes last, so that its presence means that the image is done.
    for kind in sorted(kinds, key=KINDS.index):
        path = folder / name_file(stem, kind, is_semantic=result.is_semantic)
        write_whole(path, result.encode(kind))
        written.append(path)
    return written


def _round_point(point: Point) -> Point:
    return Point(round(point.y, 2), round(point.x, 2))
