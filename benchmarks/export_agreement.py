"""Agreement of exports with the predictor on images, as a table.

    python -m benchmarks.export_agreement --checkpoints nuclei runs/coco --images photos \
        --height_px=257 --width_px=257 --json=agreement.json

Each checkpoint is exported to each format for each batch size and dtype, into a folder that is
removed again, and run on the images beside the predictor. One line of JSON per export.
"""

import argparse
import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Sequence

from pdl_jax.prediction.export.export import FORMATS, ExportOptions, export
from pdl_jax.prediction.image_list import find_images
from pdl_jax.prediction.predictor import Predictor

_BATCH_SIZES = (1, 4)
_DTYPES = ('float32', 'bfloat16')
_HEADER = (
    '| checkpoint | format | dtype | batch | pixels equal | identical maps | scores, at most |'
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; `python -m benchmarks.export_agreement --help` lists the flags."""
    flags = _parse(arguments)
    images = find_images(flags.images)[: flags.num_images]
    print(f'{_HEADER}\n{"|---" * 7}|', flush=True)
    for checkpoint in flags.checkpoints:
        # One predictor per dtype of activations, so that its programs are compiled once.
        load = functools.cache(functools.partial(Predictor.load, checkpoint))
        for dtype in flags.dtypes:
            for batch_size in flags.batch_sizes:
                for form in flags.formats:
                    size = flags.height_px, flags.width_px
                    options = ExportOptions(form, size, batch_size, dtype=dtype)
                    _measure(load, checkpoint, options, images, flags.json)


def _measure(load, checkpoint, options, images, path):
    name = os.path.basename(checkpoint.rstrip('/'))
    cells = [name, options.format, options.dtype, options.batch_size]
    result = {'checkpoint': name, **dataclasses.asdict(options)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = os.path.join(folder, 'export')
            found = export(load, options, output, images=images, say=lambda _: None)
            result['agreement'] = dataclasses.asdict(found)
            cells += [f'{found.equal:.4%}', f'{found.num_identical} of {found.num_images}']
            cells.append(f'{found.score_difference:.1e}')
        except RuntimeError as error:
            result['error'] = str(error)
            cells += [f'failed: {error}', '', '']
    print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)
    if path:
        with open(path, 'a') as file:
            file.write(json.dumps(result) + '\n')


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.export_agreement',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--checkpoints', nargs='+', required=True)
    parser.add_argument('--images', nargs='+', required=True, help='files, folders or patterns')
    parser.add_argument('--num_images', type=int, default=20, help='of them (default: 20)')
    parser.add_argument('--height_px', type=int, default=257)
    parser.add_argument('--width_px', type=int, default=257)
    parser.add_argument('--formats', nargs='+', default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument('--dtypes', nargs='+', default=list(_DTYPES))
    parser.add_argument('--batch_sizes', nargs='+', type=int, default=list(_BATCH_SIZES))
    parser.add_argument('--json', help='file to which one line per export is appended')
    return parser.parse_args(arguments)


if __name__ == '__main__':
    main()
