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
from pdl_jax.prediction.file_kinds import DEFAULT_KINDS, SUFFIXES, check_kinds
from pdl_jax.prediction.formats import encode_segments, encode_semantic
from pdl_jax.prediction.picture_style import DEFAULT_STYLE, PictureStyle
from pdl_jax.prediction.result_files import write_result
from pdl_jax.storage.paths import make_path, write_whole
from pdl_jax.systems.drawing.colors import color_panoptic
from pdl_jax.systems.drawing.contrast import stretch_contrast
from pdl_jax.systems.drawing.errors import error_picture, find_errors
from pdl_jax.systems.drawing.fields import draw_offset, draw_ponder, heatmap_picture
from pdl_jax.systems.drawing.overlay import overlay_panoptic, resize_image
from pdl_jax.systems.drawing.page import PageSegment, make_page
from pdl_jax.systems.drawing.panel import draw_panel
from pdl_jax.typing import LabelFormat, suggest


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
      style: colours, contrast and size of pictures, see `with_style`.
      outputs: 'center' f32[h, w], heat in [0, 1], and 'offset' f32[h, w, 2], (dy, dx) in pixels, at
        the size of the network input, if they were asked for and the network has them; 'ponder'
        f32[h, w], units run, of an adaptive network.
    """

    panoptic: np.ndarray
    segments: tuple[Segment, ...]
    spec: DatasetSpec
    is_semantic: bool = False
    image: np.ndarray | None = None
    name: str = ''
    postprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    style: PictureStyle = DEFAULT_STYLE
    outputs: Mapping[str, np.ndarray] | None = None

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

    def with_style(self, **style: Any) -> 'PanopticResult':
        """Changes how pictures look: palette, contrast, alpha, min_side_px, see `PictureStyle`.

            result.with_style(palette='colorblind').save('out')

        Raises:
          ValueError: names the value that is not possible.
        """
        known = [field.name for field in dataclasses.fields(PictureStyle)]
        for name in style:
            if name not in known:
                raise ValueError(
                    f'pictures have no {name}; {suggest(name, known)}choose among '
                    f'{", ".join(known)}'
                )
        return dataclasses.replace(self, style=dataclasses.replace(self.style, **style))

    def draw_overlay(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draws coloured segments, outlines, names and scores; u8[k H, k W, 3].

        Pictures much smaller than `style.min_side_px` are enlarged by a whole factor k.

        Args:
          image: u8[H, W, C], by default the one that was predicted. Of other than three channels
            the first ones are shown, see `images.show_channels`.

        Raises:
          ValueError: there is no image, or it has another size.
        """
        return overlay_panoptic(
            self._shown_image(image),
            self.panoptic,
            self._drawn_format,
            class_names=self.spec.class_names,
            colors=self._colors,
            alpha=self.style.alpha,
            scores=self._scores,
            min_side_px=self.style.min_side_px,
        )

    def draw_color(self) -> np.ndarray:
        """Draws the segments in the colours of the overlay alone, u8[H, W, 3]; void is black."""
        return color_panoptic(self.panoptic, self._drawn_format, self._colors)

    def draw_panel(
        self, image: np.ndarray | None = None, truth: np.ndarray | None = None
    ) -> np.ndarray:
        """Draws the image and the overlay side by side over a legend, see `panel.draw_panel`.

        Args:
          image: see `draw_overlay`.
          truth: i32[H, W], the true panoptic map: its overlay and the errors are drawn too.

        Returns:
          u8[h, w, 3].

        Raises:
          ValueError: there is no image, or it or the truth has another size.
        """
        return draw_panel(
            self._shown_image(image),
            self.panoptic,
            self._drawn_format,
            class_names=self.spec.class_names,
            colors=self._colors,
            truth=truth,
            scores=self._scores,
            alpha=self.style.alpha,
            min_side_px=self.style.min_side_px,
        )

    def draw_errors(self, truth: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        """Draws the pixels that differ from the truth by their kinds, u8[H, W, 3].

        Args:
          truth: i32[H, W], the true panoptic map.
          image: see `draw_overlay`.

        Raises:
          ValueError: there is no image, or it or the truth has another size.
        """
        errors = find_errors(self.panoptic, truth, self._drawn_format)
        return error_picture(errors, self._shown_image(image))

    def draw_center(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draws the heat of object centres over the image, u8[h, w, 3] like `outputs`.

        Raises:
          ValueError: there is no image, or the outputs were not asked for.
        """
        heat = self._get_output('center')
        return heatmap_picture(heat, resize_image(self._shown_image(image), heat.shape))

    def draw_offset(self) -> np.ndarray:
        """Draws the offsets of objects and their colour wheel, u8[h, w, 3] like `outputs`.

        Raises:
          ValueError: the outputs were not asked for.
        """
        offset = self._get_output('offset')
        is_object = (self.panoptic % self.spec.label_divisor > 0).astype(np.uint8)
        return draw_offset(offset, resize_image(is_object, offset.shape[:2], is_smooth=False) > 0)

    def draw_ponder(self, image: np.ndarray | None = None) -> np.ndarray:
        """Draws where an adaptive network ran most units, u8[h, w, 3] like `outputs`.

        Raises:
          ValueError: there is no image, or the outputs were not asked for.
        """
        ponder = self._get_output('ponder')
        return draw_ponder(ponder, resize_image(self._shown_image(image), ponder.shape))

    def to_html(self, image: np.ndarray | None = None) -> str:
        """Makes a page on which the pointer reads class, score and area; it needs no network.

        Centres, offsets and ponder cost can be shown if this result has `outputs`.

        Args:
          image: see `draw_overlay`.

        Raises:
          ValueError: there is no image, or it has another size.
        """
        segments = [PageSegment(s.label, s.class_name, s.score, s.area_px) for s in self.segments]
        layers = {}
        outputs = self.outputs or {}
        if 'center' in outputs:
            layers |= {'centres': self.draw_center(image), 'offsets': self.draw_offset()}
        if 'ponder' in outputs:
            layers['ponder'] = self.draw_ponder(image)
        return make_page(
            self._shown_image(image),
            self.panoptic,
            self._drawn_format,
            segments=segments,
            colors=self._colors,
            title=self.name or 'prediction',
            alpha=self.style.alpha,
            layers=layers,
        )

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
        """Encodes the file of a kind, see `file_kinds.KINDS`.

        Raises:
          ValueError: there is no such kind, or a picture needs the image.
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
        if kind == 'html':
            return self.to_html().encode(errors='replace')
        draw = {
            'overlay': self.draw_overlay,
            'color': self.draw_color,
            'panel': self.draw_panel,
            'center': self.draw_center,
            'offset': self.draw_offset,
            'ponder': self.draw_ponder,
        }
        return encode_image(draw[kind]())

    def save(
        self, path: str | os.PathLike, kinds: Sequence[str] = DEFAULT_KINDS
    ) -> list[epath.Path]:
        """Writes files.

            result.save('out')           out/NAME_overlay.png, out/NAME_panoptic.png, out/NAME.json
            result.save('cells.png')     the overlay alone; .html, .csv and .json are the page, the
                                         table and the list

        Args:
          path: a folder, made if it is missing, or a file that ends in .png, .html, .csv or .json.
            NAME is that of the image's file, or 'image'.
          kinds: files to write to a folder, see `file_kinds.KINDS`.

        Returns:
          The files.

        Raises:
          OSError: a file cannot be written.
          ValueError: there is no such kind, or a picture needs the image.
        """
        target = make_path(path)
        kind = SUFFIXES.get(target.suffix.lower())
        if kind is None or target.is_dir():
            stem = os.path.splitext(self.name)[0] or 'image'
            return write_result(self, target, stem, kinds)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, self.encode(kind))
        return [target]

    @property
    def _scores(self) -> dict[int, float]:
        return {segment.label: segment.score for segment in self.segments}

    def _get_output(self, name: str) -> np.ndarray:
        if self.outputs is None:
            raise ValueError(
                f'this result has no {name}s of the network: predict it with '
                f'predictor(image, keep_outputs=True)'
            )
        if name not in self.outputs:
            raise ValueError(f'this network has no {name} to draw: it has {sorted(self.outputs)}')
        return self.outputs[name]

    @property
    def _colors(self) -> np.ndarray:
        return self.spec.make_palette(self.style.palette)

    def _shown_image(self, image: np.ndarray | None) -> np.ndarray:
        image = self.image if image is None else image
        if image is None:
            raise ValueError('this result does not know its image: draw with image=...')
        return stretch_contrast(show_channels(image), self.style.contrast)

    @property
    def _drawn_format(self) -> LabelFormat:
        label_format = self.spec.label_format
        if self.is_semantic:
            # Things without an instance would be drawn as crowds.
            return dataclasses.replace(label_format, thing_classes=())
        return label_format


def _round_point(point: Point) -> Point:
    return Point(round(point.y, 2), round(point.x, 2))
