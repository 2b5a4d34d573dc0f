"""The command `check`: recognises a data set, lists its faults, and draws some of its images.

PATH is a folder of images and labels in any layout that `prepare` reads, an annotation file, or a
dataset directory that `prepare` wrote. All faults are listed; with any the exit status is 1. The
contact sheet shows images with their labels: look at it before training.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdl_jax.data.catalog import DatasetSpec
    from pdl_jax.data.check import Sample

SUMMARY = 'recognise a data set, list its faults and draw some of its images'

EXAMPLES = """\
pdl_jax check photos
pdl_jax check photos --class=nucleus --sheet=sheet.png
pdl_jax check data/own
"""

_MAX_SHOWN_FAULTS = 100
_SIDE_PX = 320
_COLUMNS = 4


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument('path', metavar='PATH', help='folder or annotation file')
    parser.add_argument(
        '--class', dest='class_name', default='', help='name of the only class of masks'
    )
    parser.add_argument(
        '--sheet', default='check.png', help='picture to write (default: %(default)s); none: no'
    )
    parser.add_argument('--num_processes', type=int, help='default: one per CPU core')


def run(flags: argparse.Namespace) -> None:
    """Checks the data set.

    Raises:
      FileNotFoundError: there is nothing at PATH.
      ValueError: no layout is recognised, or an annotation file is malformed.
      SystemExit: status 1 if images have faults.
    """
    # Imported late, so that --help needs neither NumPy nor TFDS.
    from pdl_jax.data import check, prepare, recognition
    from pdl_jax.data.statistics import find_warnings, format_statistics

    prepared = list(_open_prepared(flags.path))
    sources = prepared or [
        (layout, prepare.get_reader(layout.format)(**layout.options))
        for layout in recognition.recognize(flags.path, class_name=flags.class_name)
    ]
    num_faults = 0
    pictures = []
    for layout, source in sources:
        title = f'{layout.split or "all images"}: {layout.format} ({layout.evidence})'
        print(f'{title}\n{_format_options(layout.options)}', flush=True)
        checked = check.check_split(source, num_processes=flags.num_processes)
        print(format_statistics(checked.statistics, source.spec))
        for note in checked.notes:
            print(f'note: {note}')
        for warning in find_warnings(checked.statistics, source.spec):
            print(f'warning: {warning}')
        for fault in checked.faults[:_MAX_SHOWN_FAULTS]:
            print(f'fault: {fault}')
        if len(checked.faults) > _MAX_SHOWN_FAULTS:
            print(f'and {len(checked.faults) - _MAX_SHOWN_FAULTS} more faults')
        num_faults += len(checked.faults)
        pictures += _draw(checked.samples, source.spec)
    if pictures and flags.sheet != 'none':
        _write_sheet(pictures, flags.sheet)
    if num_faults:
        print(f'{num_faults} images have faults', file=sys.stderr)
        sys.exit(1)
    if not prepared:
        print(f'no fault: pdl_jax prepare {flags.path} --out=DIR')


def _open_prepared(path: str) -> Any:
    """Yields (layout, split) of each split of a directory that `prepare` wrote."""
    from pdl_jax.data import records, split_directory
    from pdl_jax.data.recognition import Layout
    from pdl_jax.storage import paths

    root = paths.make_path(path)
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and split_directory.is_complete(folder):
            source = records.open_split(root, folder.name)
            yield Layout('prepared', {}, folder.name, 'records'), source.as_annotated_split()


def _format_options(options: dict[str, Any]) -> str:
    return '\n'.join(f'  {name}: {value}' for name, value in options.items())


def _draw(samples: 'Sequence[Sample]', spec: 'DatasetSpec') -> list[tuple[str, Any]]:
    import numpy as np
    from PIL import Image

    from pdl_jax.systems.drawing.contrast import stretch_contrast
    from pdl_jax.systems.drawing.overlay import overlay_panoptic

    pictures = []
    for name, image, panoptic in samples:
        factor = _SIDE_PX / max(panoptic.shape)
        height, width = (max(1, round(side * factor)) for side in panoptic.shape)
        size = width, height
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        small = stretch_contrast(small)
        label = np.asarray(Image.fromarray(panoptic).resize(size, Image.Resampling.NEAREST))
        overlay = overlay_panoptic(
            small,
            label,
            spec.label_format,
            class_names=spec.class_names,
            colors=spec.make_palette(),
        )
        pictures.append((name, np.concatenate([small, overlay], axis=1)))
    return pictures


def _write_sheet(pictures: list[tuple[str, Any]], path: str) -> None:
    from pdl_jax.data.images import encode_image
    from pdl_jax.storage import paths
    from pdl_jax.systems.drawing.grid import picture_grid

    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    grid = picture_grid(
        [[picture for _, picture in row] for row in rows],
        [[name[-40:] for name, _ in row] for row in rows],
    )
    paths.write_whole(paths.make_path(path), encode_image(grid))
    print(f'wrote {path}: images beside their labels')
