"""Stacks of slices: objects linked from slice to slice, one number for each through the stack."""

import contextlib
import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from pdl_jax.data import tiff_images
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.tiff_stacks import TiffStack
from pdl_jax.prediction.image_files import read_image
from pdl_jax.prediction.image_list import stem_of
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.tracking import Tracker, TrackOptions
from pdl_jax.runtime.progress import show_items
from pdl_jax.storage.outside_files import refuse_irregular
from pdl_jax.storage.paths import explain_write_errors, is_remote, make_path, write_whole

# Objects end between slices, and seldom jump.
SLICE_OPTIONS = TrackOptions(min_iou=0.2, min_containment=0.6, max_gap=1, is_moving=False)


@dataclasses.dataclass
class StackObject:
    """An object of a stack.

    Attributes:
      number: its value in the stack of labels.
      class_name: its class.
      category_id: id of the class in the annotation file that the network was trained with.
      first_slice, last_slice: numbers of the slices, from 0, that show it.
      num_slices: slices that show it.
      volume: voxels.
      score: mean score of its pixels.
      centroid: mean (z, y, x) of its voxels.
      box: z0, y0, x0, z1, y1, x1 in voxels, ends exclusive.
    """

    number: int
    class_name: str
    category_id: int
    first_slice: int
    last_slice: int = 0
    num_slices: int = 0
    volume: int = 0
    score: float = 0.0
    centroid: tuple[float, float, float] = (0.0, 0.0, 0.0)
    box: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)


def predict_stack(
    predictor: Predictor,
    paths: Sequence[str],
    output: str | os.PathLike,
    *,
    stem: str = '',
    options: TrackOptions = SLICE_OPTIONS,
) -> list[StackObject]:
    """Predicts the slices of a stack, one after the other, and links their objects.

    Writes NAME_objects.tif, a page of uint32 numbers of objects per slice, 0 for all else, and
    NAME_objects.csv, a line per object.

    Args:
      predictor: the network.
      paths: one TIFF file whose pages are the slices, or an image per slice in order.
      output: folder of the results, local.
      stem: NAME; by default that of the first file.
      options: the rules of linking.

    Returns:
      The objects, ascending by number.

    Raises:
      ValueError: a file is no image, or is damaged, or the slices differ in size.
      OSError: a file cannot be read, or the results cannot be written.
    """
    folder = make_path(output)
    if is_remote(folder):
        raise ValueError(f'stacks are written to local folders, not to {folder}')
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem or stem_of(paths[0])
    with open_slices(paths, predictor.pixels) as slices:
        results = (predictor.start([image])()[0] for image in slices)
        objects = write_objects(results, folder / f'{stem}_objects.tif', options)
    write_whole(folder / f'{stem}_objects.csv', to_csv(objects).encode('utf-8-sig'))
    return objects


@contextlib.contextmanager
def open_slices(paths: Sequence[str], pixels: PixelFormat) -> Iterator[Iterable[np.ndarray]]:
    """Opens the slices of a stack, u8[H, W, C] each; see `predict_stack` for paths and errors."""
    with contextlib.ExitStack() as stack:
        if len(paths) == 1:
            refuse_irregular(paths[0])
            file = stack.enter_context(make_path(paths[0]).open('rb'))
            if not tiff_images.is_tiff(file.read(4)):
                raise ValueError(
                    f'{paths[0]} is one image, no stack: give a TIFF file of several pages, or an '
                    f'image per slice'
                )
            yield show_items(TiffStack(file, name=paths[0], pixels=pixels), 'slices')
            return
        yield (read_image(path, pixels) for path in show_items(paths, 'slices'))


def write_objects(
    results: Iterable[PanopticResult], path: epath.Path, options: TrackOptions = SLICE_OPTIONS
) -> list[StackObject]:
    """Links the objects of slices and writes their numbers.

    Args:
      results: those of the slices, in order.
      path: the TIFF file, which appears when it is complete.
      options: the rules of linking.

    Returns:
      The objects, ascending by number.

    Raises:
      ValueError: slices have different sizes.
      OSError: the file cannot be written.
    """
    import tifffile

    tracker = Tracker(options)
    objects: dict[int, StackObject] = {}
    size = None
    partial = path.parent / f'.{path.name}.{os.getpid()}.partial'
    try:
        # Stacks of more than 4 GiB need offsets of 64 bits, and their size shows at the end only.
        with explain_write_errors(path), tifffile.TiffWriter(partial, bigtiff=True) as writer:
            for index, result in enumerate(results):
                size = size or result.panoptic.shape
                if result.panoptic.shape != size:
                    raise ValueError(
                        f'slice {index + 1} has {result.panoptic.shape[0]}x'
                        f'{result.panoptic.shape[1]} pixels, the ones before {size[0]}x{size[1]}'
                    )
                numbers = tracker.update(result)
                _add_slice(objects, result, numbers, index)
                writer.write(
                    number_map(result.panoptic, numbers).astype(np.uint32),
                    compression='zlib',
                    photometric='minisblack',
                    contiguous=False,
                    metadata=None,
                )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return [objects[number] for number in sorted(objects)]


def number_map(panoptic: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    """Replaces labels, i32[H, W], by the numbers of objects; 0 where there is none."""
    table = np.zeros(int(panoptic.max()) + 1, np.int32)
    for label, number in numbers.items():
        table[label] = number
    return table[panoptic]


def to_csv(objects: Iterable[StackObject]) -> str:
    """Writes a table with a row per object."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    columns = ('object', 'class', 'category_id', 'score', 'volume', 'num_slices')
    writer.writerow(
        [*columns, *(f'centroid_{axis}' for axis in 'zyx'), 'z0', 'y0', 'x0', 'z1', 'y1', 'x1']
    )
    for one in objects:
        row = [one.number, one.class_name, one.category_id, f'{one.score:.4f}', one.volume]
        writer.writerow([*row, one.num_slices, *(round(x, 2) for x in one.centroid), *one.box])
    return file.getvalue()


def _add_slice(
    objects: dict[int, StackObject], result: PanopticResult, numbers: dict[int, int], index: int
) -> None:
    """Adds what a slice shows of each object."""
    for segment in result.segments:
        number = numbers.get(segment.label)
        if number is None:
            continue
        one = objects.get(number)
        if one is None:
            one = StackObject(number, segment.class_name, segment.category_id, index)
            one.box = (index, *segment.box[:2], index + 1, *segment.box[2:])
            objects[number] = one
        total = one.volume + segment.area_px
        share = segment.area_px / total
        center = (index, *segment.centroid)
        one.centroid = tuple(  # pyright: ignore[reportAttributeAccessIssue] - it has three.
            (1 - share) * old + share * new for old, new in zip(one.centroid, center, strict=True)
        )
        one.score += share * (segment.score - one.score)
        low, high = one.box[:3], one.box[3:]
        box = segment.box
        one.box = (
            low[0],
            min(low[1], box.y0),
            min(low[2], box.x0),
            index + 1,
            max(high[1], box.y1),
            max(high[2], box.x1),
        )
        one.volume, one.last_slice = total, index
        one.num_slices += 1
