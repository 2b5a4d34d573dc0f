"""Predicts images of any size with a checkpoint.

Each photo gets NAME_overlay.png (a picture for people), NAME_panoptic.png (ids as in the COCO
panoptic format; a semantic network writes NAME_semantic.png, class indices) and NAME.json (the
segments); --write chooses these and others. With --image_info the images of a COCO split without
labels are predicted to predictions.json and predictions/, as the COCO server takes them. With
--shards millions of images are written to archives instead: predictions-00000-of-01000.tar holds
KEY.panoptic.png and KEY.json of each image, and the .jsonl beside it has a line per image, also for
those that cannot be read. Run again, the command leaves out the shards that are complete. Several
processes divide the shards among themselves by --num_processes and --process_id, or --distributed
where the platform tells (TPU pods, Slurm, Open MPI).

With --tile_px images may be larger than the memory: they are predicted in overlapping tiles, whose
objects are joined. TIFF files (whole slides, aerial images) are then read by region, and the label
map is written to NAME_panoptic.tif. With --stack the pages of a TIFF file, or the images in order,
are slices: each object has one number through all of them, in NAME_objects.tif and .csv.
"""

import argparse
import functools
import sys
from typing import TYPE_CHECKING, Any

from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.predictor_flags import (
    STYLE,
    add_checkpoint_flags,
    add_style_flags,
    add_threshold_flags,
    list_given,
    list_options,
)
from pdl_jax.commands.processes import announce, set_up_prediction, show_own_messages

if TYPE_CHECKING:
    from pdl_jax.prediction.predictor import Predictor
    from pdl_jax.prediction.tiled import TileOptions

SUMMARY = 'predict images: label maps, segments and overlay pictures'
EXAMPLES = """\
  pdl_jax predict --checkpoint=runs/coco --images=photos --output=predictions
  pdl_jax predict --checkpoint=runs/coco --images a.jpg 'more/*.png' --output=predictions \\
      --min_score=0.3 --write=overlay,color,csv
  pdl_jax predict --checkpoint=runs/coco --step=best --image_info=image_info_test2017.json \\
      --images=test2017 --output=predictions
  pdl_jax predict --checkpoint runs/a runs/b runs/c --images=photos --output=predictions --flip
  pdl_jax predict --checkpoint=runs/coco --prefix=gs://BUCKET/photos --output=gs://BUCKET/out \\
      --shards=1000
  pdl_jax predict --checkpoint=nuclei --images=slide.tif --output=predictions --tile_px=1024 \\
      --overlap_px=256
  pdl_jax predict --checkpoint=runs/cells --images=volume.tif --stack --output=predictions"""

_TILES = ('tile_px', 'overlap_px', 'image_context')
_ONLY_SHARDS = ('batch_size', 'num_processes', 'process_id', 'distributed')


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_checkpoint_flags(parser)
    parser.add_argument(
        '--images',
        nargs='+',
        action='extend',
        default=[],
        help='files, folders or quoted patterns, such as *.jpg; may be repeated',
    )
    parser.add_argument('--list', help='text file with the path of one image per line; or gs://')
    parser.add_argument('--prefix', help='folder or gs:// prefix: all images anywhere below it')
    parser.add_argument('--output', required=True, help='directory of the results; or gs://')
    parser.add_argument(
        '--value_range',
        default='dataset',
        help='values of files with more than 8 bits that become 0 and 255: of the training data '
        '(dataset, default), of each image (image) or LOW,HIGH',
    )
    parser.add_argument(
        '--write',
        metavar='KINDS',
        help='files per image, separated by commas: overlay, ids, color, panel (image beside '
        'overlay), html (a page to point at), center (heat), offset, csv, json (default: '
        'overlay,ids,json)',
    )
    add_style_flags(parser)
    parser.add_argument(
        '--image_info',
        metavar='FILE',
        help='COCO JSON that lists the images of the folder --images, such as '
        'image_info_test2017.json: write predictions.json and predictions/',
    )
    _add_large_flags(parser)
    add_threshold_flags(parser)
    bulk = parser.add_argument_group('many images')
    bulk.add_argument(
        '--shards', type=int, default=0, help='write this many shards, not files per image'
    )
    bulk.add_argument(
        '--batch_size', type=int, default=0, help='images at a time (default: 1 or 8 per device)'
    )
    bulk.add_argument(
        '--num_processes', type=int, default=1, help='processes that divide the shards'
    )
    bulk.add_argument('--process_id', type=int, default=0, help='index of this process, from 0')
    add_switch(bulk, 'distributed', help='take these two from the platform')


def _add_large_flags(parser: argparse.ArgumentParser) -> None:
    large = parser.add_argument_group('large images')
    large.add_argument(
        '--tile_px', '--tile', type=int, help='side of the tiles that images are predicted in'
    )
    large.add_argument(
        '--overlap_px',
        '--overlap',
        type=int,
        help='overlap of tiles, about twice the size of the objects (default: 256)',
    )
    add_switch(
        large,
        'image_context',
        default=None,
        help='label tiles in the context of the whole image, which takes a second pass (default)',
    )
    stack = parser.add_argument_group('stacks of slices')
    add_switch(stack, 'stack', help='the images are slices of one volume: link their objects')
    stack.add_argument(
        '--min_iou', type=float, help='IoU above which objects are linked (default: 0.2)'
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    for name in _ONLY_SHARDS:
        default = 1 if name == 'num_processes' else 0
        if not flags.shards and getattr(flags, name) != default:
            raise ValueError(f'--{name} needs --shards')
    if flags.min_iou is not None and not flags.stack:
        raise ValueError('--min_iou needs --stack')
    show_own_messages()
    if flags.shards:
        _predict_shards(flags)
        return
    if flags.stack:
        _predict_stack(flags)
        return
    tiles = _read_tiles(flags)
    image_ids = _read_image_ids(flags)
    from pdl_jax.prediction.image_list import list_images, name_results, refuse_overwriting

    paths = list(image_ids or list_images(flags.images, flags.list, flags.prefix))
    announce(f'predicting {len(paths)} images with {" and ".join(flags.checkpoint)}')
    from pdl_jax.prediction.file_kinds import DEFAULT_KINDS, check_kinds, name_file
    from pdl_jax.prediction.picture_style import PictureStyle
    from pdl_jax.storage.paths import make_path

    default = DEFAULT_KINDS if image_ids is None else ()
    kinds = default if flags.write is None else [k for k in flags.write.split(',') if k]
    if tiles is None:
        check_kinds(kinds)
    else:
        from pdl_jax.prediction.tiled import check_tiled_kinds

        check_tiled_kinds(kinds)
    style = PictureStyle(**list_given(flags, STYLE))
    stems = name_results(paths).values()
    names = (name_file(s, k, is_tiled=tiles is not None) for s in stems for k in kinds)
    refuse_overwriting(paths, (f'{flags.output}/{name}' for name in names))
    output = make_path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    from pdl_jax.prediction.predict_files import predict_files
    from pdl_jax.prediction.predictor import Predictor

    set_up_prediction(keeps_freed=tiles is None)
    predictor = Predictor.load(flags.checkpoint, step=flags.step, **_list_options(flags))
    failures = predict_files(
        predictor, paths, output, kinds=kinds, style=style, image_ids=image_ids, tiles=tiles
    )
    print(f'{len(paths) - len(failures)} of {len(paths)} images predicted to {output}')
    if failures:
        sys.exit('error: not predicted:\n' + '\n'.join(failures))


def _read_tiles(flags: argparse.Namespace) -> 'TileOptions | None':
    """Reads the tiles that images are predicted in; None for whole images."""
    given = list_given(flags, _TILES)
    if not given:
        return None
    if flags.tile_px is None:
        raise ValueError(f'--{next(iter(given))} needs --tile_px')
    if flags.image_info is not None:
        raise ValueError('--image_info writes whole images: leave out --tile_px')
    from pdl_jax.prediction.tiled import TileOptions

    if 'image_context' in given:
        given['has_image_context'] = given.pop('image_context')
    return TileOptions(**given)


def _predict_stack(flags: argparse.Namespace) -> None:
    for name in ('write', 'image_info', *STYLE, *_TILES):
        if getattr(flags, name) is not None:
            raise ValueError(f'--{name} is for single images: leave out --stack')
    import dataclasses

    from pdl_jax.prediction.image_list import list_images, refuse_overwriting, stem_of
    from pdl_jax.prediction.predictor import Predictor
    from pdl_jax.prediction.slices import SLICE_OPTIONS, predict_stack

    paths = list_images(flags.images, flags.list, flags.prefix)
    announce(f'predicting a stack of {len(paths)} files with {" and ".join(flags.checkpoint)}')
    options = dataclasses.replace(SLICE_OPTIONS, **list_given(flags, ('min_iou',)))
    refuse_overwriting(paths, [f'{flags.output}/{stem_of(paths[0])}_objects.tif'])
    set_up_prediction()
    predictor = Predictor.load(flags.checkpoint, step=flags.step, **_list_options(flags))
    objects = predict_stack(predictor, paths, flags.output, options=options)
    print(f'{len(objects)} objects in the stack {paths[0]}, predicted to {flags.output}')


def _read_image_ids(flags: argparse.Namespace) -> dict[str, int | str] | None:
    """Reads the images of --image_info; None without it."""
    if flags.image_info is None:
        return None
    if len(flags.images) != 1 or flags.list or flags.prefix:
        raise ValueError('--image_info needs the folder of its images, --images=FOLDER, alone')
    from pdl_jax.prediction.image_info import read_image_info

    return read_image_info(flags.image_info, flags.images[0])


def _list_options(flags: argparse.Namespace) -> dict[str, Any]:
    """Lists the arguments of `Predictor.load` that the flags give."""
    return {**list_options(flags), 'value_range': flags.value_range}


def _predict_shards(flags: argparse.Namespace) -> None:
    for name in ('write', 'image_info', *STYLE, *_TILES):
        if getattr(flags, name) is not None:
            raise ValueError(f'--{name} is for files per image: leave out --shards')
    if flags.stack:
        raise ValueError('--stack is one volume: leave out --shards')
    from pdl_jax.prediction.image_list import list_images

    paths = list_images(flags.images, flags.list, flags.prefix)
    announce(f'predicting {len(paths)} images with {" and ".join(flags.checkpoint)}')
    import jax

    from pdl_jax.prediction.bulk import predict_shards

    predictor, process_index, process_count = _load_for_shards(flags)
    images_per_device = 1 if jax.default_backend() == 'cpu' else 8
    predict_shards(
        predictor,
        paths,
        flags.output,
        num_shards=flags.shards,
        batch_size=flags.batch_size or images_per_device * predictor.num_devices,
        process_index=process_index,
        process_count=process_count,
        say=functools.partial(print, flush=True),
    )


def _load_for_shards(flags: argparse.Namespace) -> tuple['Predictor', int, int]:
    """Loads the predictor on all devices of this process; also its index and their number."""
    import jax

    from pdl_jax.prediction.predictor import Predictor
    from pdl_jax.runtime.processes import choose_together, ending_together
    from pdl_jax.storage.checkpoint import find_checkpoint

    if flags.distributed:
        jax.distributed.initialize()
    set_up_prediction()
    load = functools.partial(Predictor.load, **_list_options(flags))
    if not flags.distributed:
        predictor = load(flags.checkpoint, step=flags.step, devices=jax.local_devices())
        return predictor, flags.process_id, flags.num_processes
    # Training may go on meanwhile and save a newer checkpoint, so one process chooses for all.
    with ending_together('The same command on all hosts leaves out what is complete.'):
        find = (functools.partial(find_checkpoint, path, flags.step) for path in flags.checkpoint)
        predictor = load([choose_together(one) for one in find], devices=jax.local_devices())
    # From here on processes are independent: neither the first to finish nor one that dies may
    # stop the others.
    jax.distributed.shutdown()
    return predictor, jax.process_index(), jax.process_count()
