"""Prediction on images of any size from the command line; `Predictor` does it in Python.

    python -m pdl_jax.commands.predict --checkpoint=runs/coco --images='photos/*.jpg' --output=predictions

writes for each photo NAME_panoptic.png (ids as in the COCO panoptic format; of a semantic network NAME_semantic.png, class
indices), NAME.json (the segments) and NAME_overlay.png (a picture for people). Millions of images are written to shards:

    python -m pdl_jax.commands.predict --checkpoint=runs/coco --prefix=gs://bucket/photos --output=gs://bucket/predictions --shards=1000

writes predictions-00000-of-01000.tar with KEY.panoptic.png and KEY.json of each image, and beside it a .jsonl with a line for
each image, also for those that cannot be read. Run again, it leaves out the shards that are complete. Several processes divide
the shards among themselves: give each --num_processes and its --process_id, or --distributed where the platform tells (TPU
pods, Slurm, Open MPI).
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence

import jax
import tqdm
from etils import epath

from pdl_jax.data.images import decode_image, encode_image
from pdl_jax.prediction.bulk import predict_shards
from pdl_jax.prediction.image_list import (
    find_below,
    find_images,
    read_list,
    refuse_equal_stems,
    stem_of,
)
from pdl_jax.prediction.predictor import PanopticResult, Predictor, Segment
from pdl_jax.runtime.host_memory import keep_freed_memory
from pdl_jax.runtime.processes import choose_together, ending_together
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.paths import explain_bucket_errors, make_path, write_whole

__all__ = ['PanopticResult', 'Predictor', 'Segment', 'main', 'predict_file']


def predict_file(predictor: Predictor, path: str, output: epath.Path) -> PanopticResult:
    """Predicts one image file and writes its three results.

    The picture is turned upright first where its EXIF data say so, as viewers do.

    Raises:
      ValueError: the file is no image, is truncated or too large; the message names it.
      OSError: the image cannot be read, or the results cannot be written.
    """
    with explain_bucket_errors(path):
        data = epath.Path(path).read_bytes()
    image = decode_image(data, name=path, is_exif_applied=True)
    result = predictor(image)
    stem = stem_of(path)
    height, width = image.shape[:2]
    description = {'file_name': os.path.basename(path), 'height': height, 'width': width}
    kind = 'semantic' if result.is_semantic else 'panoptic'
    with explain_bucket_errors(output):
        (output / f'{stem}_{kind}.png').write_bytes(result.to_png())
        (output / f'{stem}_overlay.png').write_bytes(encode_image(result.draw_overlay(image)))
    # Last, so that the JSON's presence means that the image is done.
    write_whole(
        output / f'{stem}.json',
        json.dumps({**description, 'segments': result.to_json()}, indent=1).encode(),
    )
    return result


def predict_files(predictor: Predictor, paths: Sequence[str], output: epath.Path) -> list[str]:
    """Predicts image files one by one and says what is in each.

    Returns:
      What went wrong, a line for each image that was not predicted.
    """
    failures = []
    for path in tqdm.tqdm(paths, unit='image', disable=not sys.stderr.isatty()):
        # One image that cannot be read does not stop the others.
        try:
            result = predict_file(predictor, path, output)
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            failures.append(f'{path}: {error}')
            continue
        # Names need not be UTF-8.
        name = os.fsencode(path).decode(errors='replace')
        if result.is_semantic:
            tqdm.tqdm.write(f'{name}: {", ".join(s.class_name for s in result.segments)}')
            continue
        things = ', '.join(f'{s.class_name} {s.score:.2f}' for s in result.segments if s.is_thing)
        tqdm.tqdm.write(f'{name}: {len(result.segments)} segments; {things or "no things"}')
    return failures


def list_images(flags: argparse.Namespace) -> list[str]:
    """The images of all three flags, each once.

    Raises:
      FileNotFoundError: the list, or what a pattern or prefix stands for, is not there.
      ValueError: none is given.
    """
    paths = find_images(flags.images) + (read_list(flags.list) if flags.list else [])
    paths += find_below(flags.prefix) if flags.prefix else []
    if not paths:
        raise ValueError(
            'there are no images: give --images, --prefix or a --list that is not empty'
        )
    return list(dict.fromkeys(paths))


def load_predictor(flags: argparse.Namespace) -> tuple[Predictor, int, int]:
    """Loads the predictor of a command line; of one that writes shards on all devices of this process.

    Returns:
      The predictor, the index of this process and the number of processes.
    """
    if flags.distributed:
        jax.distributed.initialize()
    keep_freed_memory()
    load = functools.partial(Predictor.load, scales=flags.scales, is_flipped=flags.flip)
    if not flags.shards:
        return load(flags.checkpoint, step=flags.step), 0, 1
    if not flags.distributed:
        predictor = load(flags.checkpoint, step=flags.step, devices=jax.local_devices())
        return predictor, flags.process_id, flags.num_processes
    # Training may go on meanwhile and save a newer one.
    with ending_together('The same command on all hosts leaves out what is complete.'):
        checkpoint = choose_together(
            functools.partial(find_checkpoint, flags.checkpoint, flags.step)
        )
        predictor = load(checkpoint, devices=jax.local_devices())
    # From here on each process works alone: neither the first to finish nor one that dies shall stop the others.
    jax.distributed.shutdown()
    return predictor, jax.process_index(), jax.process_count()


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; ends with an error where flags contradict each other."""
    parser = argparse.ArgumentParser(
        prog='python -m pdl_jax.commands.predict',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--checkpoint', required=True, help='a workdir or one step of it, local or gs://'
    )
    parser.add_argument('--images', nargs='+', default=[], help='files or quoted glob patterns')
    parser.add_argument(
        '--list', help='text file with the path of one image a line, local or gs://'
    )
    parser.add_argument('--prefix', help='folder or gs:// prefix: all images anywhere below it')
    parser.add_argument('--output', required=True, help='directory of the results, local or gs://')
    parser.add_argument(
        '--step',
        type=lambda value: value if value == 'best' else int(value),
        help='of a workdir, or best for the one with the highest PQ, or mIoU (default: the newest)',
    )
    parser.add_argument(
        '--scales', type=float, nargs='+', help='average over the image at these scales'
    )
    parser.add_argument(
        '--flip', action=argparse.BooleanOptionalAction, help='average over the mirror image too'
    )
    bulk = parser.add_argument_group('many images')
    bulk.add_argument(
        '--shards',
        type=int,
        default=0,
        help='write this many shards instead of files for each image',
    )
    bulk.add_argument(
        '--batch_size',
        type=int,
        default=0,
        help='images at a time (default: 1 a device on CPUs, else 8)',
    )
    bulk.add_argument('--num_processes', type=int, default=1, help='that divide the shards')
    bulk.add_argument('--process_id', type=int, default=0, help='of this process, from 0')
    bulk.add_argument('--distributed', action='store_true', help='take these two from the platform')
    bulk.add_argument(
        '--coordinator_address',
        help='taken as by pdl_jax.main; these processes do not talk, so it is not used',
    )
    flags = parser.parse_args(arguments)
    for name in ('batch_size', 'num_processes', 'process_id', 'distributed', 'coordinator_address'):
        if not flags.shards and getattr(flags, name) != parser.get_default(name):
            parser.error(f'--{name} needs --shards')
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `python -m pdl_jax.commands.predict --help` lists the flags."""
    flags = parse_flags(arguments)
    try:
        paths = list_images(flags)
        if not flags.shards:
            refuse_equal_stems(paths)
        predictor, process_index, process_count = load_predictor(flags)
        if flags.shards:
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
            return
        output = make_path(flags.output)
        output.mkdir(parents=True, exist_ok=True)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    failures = predict_files(predictor, paths, output)
    print(f'{len(paths) - len(failures)} of {len(paths)} images predicted to {output}')
    if failures:
        sys.exit('error: not predicted:\n' + '\n'.join(failures))


if __name__ == '__main__':
    main()
