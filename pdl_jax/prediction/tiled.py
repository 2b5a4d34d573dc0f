"""Prediction of images of any size, tile by tile: memory is bounded by the tile."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.prediction.file_kinds import DEFAULT_KINDS, KINDS, OUTPUT_KINDS, check_kinds, name_file
from pdl_jax.prediction.image_inputs import ImageInput
from pdl_jax.prediction.image_list import stem_of
from pdl_jax.prediction.label_store import LabelStore
from pdl_jax.prediction.picture_style import DEFAULT_STYLE, PictureStyle
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.previews import Preview
from pdl_jax.prediction.region_inputs import Regions, open_regions
from pdl_jax.prediction.result import PanopticResult, Segment
from pdl_jax.prediction.stitching import Stitcher
from pdl_jax.prediction.tiles import Tile, TileGrid
from pdl_jax.runtime.progress import show_items
from pdl_jax.storage.paths import make_path, write_whole
from pdl_jax.typing import PyTree

# Thresholds on segments: they hold for whole segments, not for their parts in tiles.
_LIMITS = {'min_score': 0.0, 'min_area_px': 0, 'stuff_area_limit_px': 0}


@dataclasses.dataclass(frozen=True)
class TileOptions:
    """The tiles that images are predicted in.

    Attributes:
      tile_px: side of a tile in pixels, rounded up to a size that the network takes.
      overlap_px: pixels that neighbouring tiles share at least.
      has_image_context: label each tile in the context of the whole image, which takes another look
        at all tiles first, if the network averages features over the whole image.
    """

    tile_px: int = 1024
    overlap_px: int = 256
    has_image_context: bool = True

    def __post_init__(self) -> None:
        if self.tile_px < 32:
            raise ValueError(f'tile_px (={self.tile_px}) must be at least 32 pixels')


@dataclasses.dataclass(frozen=True)
class TiledResult:
    """The segments of a large image, whose map lies on disk.

    Attributes:
      segments: all segments but void; the label of a segment is its value in the map, 1, 2, ...
      size: (height, width) of the image in pixels.
      map_path: the tiled TIFF file of the map, uint16 or uint32; 0 is void. None if none was
        written.
      preview: a result of at most 2048 pixels a side, to draw.
    """

    segments: tuple[Segment, ...]
    size: tuple[int, int]
    map_path: epath.Path | None
    preview: PanopticResult

    @property
    def summary(self) -> str:
        """Counts of things and names of stuff."""
        return self.preview.summary

    def to_json(self) -> dict[str, Any]:
        """Describes the image as JSON values, as `PanopticResult.encode('json')` does."""
        return {
            'file_name': self.preview.name,
            'height': self.size[0],
            'width': self.size[1],
            'postprocess': dict(self.preview.postprocess),
            'segments': [
                {**described, 'label': segment.label}
                for described, segment in zip(self.preview.to_json(), self.segments, strict=True)
            ],
        }

    def encode(self, kind: str) -> bytes:
        """Encodes a picture or a table; pictures show the preview."""
        if kind == 'json':
            return json.dumps(self.to_json(), indent=1).encode()
        return self.preview.encode(kind)


def predict_tiles(
    predictor: Predictor,
    image: ImageInput,
    output: str | os.PathLike,
    options: TileOptions = TileOptions(),  # noqa: B008 - it is immutable.
    *,
    stem: str = '',
    kinds: Sequence[str] = DEFAULT_KINDS,
    style: PictureStyle = DEFAULT_STYLE,
) -> TiledResult:
    """Predicts an image of any size tile by tile and writes its results.

    Objects are joined across tiles, see `stitching.Stitcher`. Thresholds such as min_area_px hold
    for whole objects. Networks whose configuration resizes images resize each tile: give them
    tiles of the size of their training images.

    Args:
      predictor: the network.
      image: a path or an array, see `region_inputs.open_regions`.
      output: folder of the results, local.
      options: the tiles.
      stem: name of the results without suffixes; by default the image's.
      kinds: files to write, see `file_kinds.KINDS`; 'ids' is NAME_panoptic.tif, and pictures are
        reduced to 2048 pixels a side.
      style: colours, contrast and size of pictures.

    Raises:
      ValueError: the file is no image, is damaged or too large, or the options do not fit.
      OSError: the image cannot be read, or the results cannot be written.
    """
    check_tiled_kinds(kinds)
    path = os.fspath(image) if isinstance(image, str | os.PathLike) else ''
    stem = stem or (stem_of(path) if path else 'image')
    folder = make_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    used = predictor.origin['postprocess']
    limits = {name: used[name] for name in _LIMITS if name in used}
    # Removed afterwards, since a part of a segment may lie below them.
    relaxed = predictor.with_postprocess(**{name: _LIMITS[name] for name in limits})
    map_path = folder / name_file(stem, 'ids', is_tiled=True)
    with open_regions(image, predictor.pixels) as regions:
        grid = make_grid(predictor, regions.size, options)
        context = None
        if options.has_image_context:
            tiles = ((tile, regions.read(tile.window)) for tile in show_items(grid, 'context'))
            context = relaxed.measure_context(tiles, grid.window_size)
        stitcher = Stitcher(predictor.spec)
        preview = Preview(regions.size, predictor.pixels.num_channels)
        hidden = folder / f'.{stem}.{os.getpid()}.labels'
        with LabelStore(hidden, regions.size) as store:
            for tile, image_part, result in _predict_all(relaxed, regions, grid, context):
                pieces = stitcher.add(tile, result)
                preview.add(tile, image_part, pieces)
                store.write(tile.core, pieces[tile.core.within(tile.window).slices])
            stitched = stitcher.finish(limits)
            if 'ids' in kinds:
                store.save_tiff(map_path, stitched.id_of_piece)
    shown = preview.finish(
        stitched.segments,
        stitched.id_of_piece,
        predictor.spec,
        is_semantic=predictor.is_semantic,
        name=os.path.basename(path),
        postprocess=used,
        style=style,
    )
    result = TiledResult(stitched.segments, grid.size, map_path if 'ids' in kinds else None, shown)
    for kind in sorted(set(kinds) - {'ids'}, key=KINDS.index):
        write_whole(folder / name_file(stem, kind), result.encode(kind))
    return result


def check_tiled_kinds(kinds: Sequence[str]) -> None:
    """Checks kinds of files that tiles can be written as.

    Raises:
      ValueError: names one that they cannot.
    """
    check_kinds(kinds)
    for kind in kinds:
        if kind in OUTPUT_KINDS:
            raise ValueError(
                f'tiles have no {kind} to draw: choose other outputs, or leave out --tile_px'
            )


def make_grid(predictor: Predictor, size: tuple[int, int], options: TileOptions) -> TileGrid:
    """Makes the tiles of an image of `size` (height, width) in pixels.

    Raises:
      ValueError: the options do not fit the network.
    """
    side = (options.tile_px, options.tile_px)
    if predictor.stride_px > 1:
        # The canvas is the next size that the network takes: it holds pixels, not padding.
        side = predictor.canvas_size(side)
    return TileGrid(size, side, options.overlap_px, predictor.stride_px)


def _predict_all(
    predictor: Predictor, regions: Regions, grid: TileGrid, context: PyTree
) -> Iterator[tuple[Tile, np.ndarray, PanopticResult]]:
    """Predicts tiles in order; the next one is read and started while one is used.

    Yields:
      The tile, u8[h, w, C] its window, and the result of that.
    """
    running: tuple[Tile, np.ndarray, Callable[[], list[PanopticResult]]] | None = None
    for tile in show_items(grid, 'tiles'):
        image = np.ascontiguousarray(regions.read(tile.window))
        finish = predictor.start([image], context=context)
        if running is not None:
            yield *running[:2], running[2]()[0]
        running = tile, image, finish
    if running is not None:
        yield *running[:2], running[2]()[0]
