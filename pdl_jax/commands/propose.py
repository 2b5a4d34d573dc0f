"""Proposes 3-D boxes of objects on a road, by 3DOP, for frames in the layout of KITTI or for one.

    pdl_jax propose --kitti=DIR --output=DIR             all frames of DIR/training
    pdl_jax propose --kitti=DIR --fit=models.json        learns from the labels of the frames
    pdl_jax propose --kitti=DIR --evaluate --output=DIR  recall by the number of proposals
    pdl_jax propose --calibration=FILE --image=FILE --lidar=FILE --output=DIR
                                                         one frame; or --depth, or --right_image

Points come from LIDAR, from a depth map, or from a pair by semi-global matching, which needs
OpenCV: pip install 'pdl_jax[stereo]'. DIR/NAME.json has the boxes, DIR/NAME_boxes.png and
DIR/NAME_top.png show the best ones. --generate=N writes N frames of cuboids on a road first.
"""

import argparse
from typing import TYPE_CHECKING

from pdl_jax.commands.command_line import add_switch

if TYPE_CHECKING:
    from pdl_jax.proposals.class_model import ClassModel
    from pdl_jax.proposals.kitti import FrameFiles
    from pdl_jax.proposals.options import ProposalOptions

SUMMARY = 'propose 3-D boxes of objects from LIDAR, depth or a stereo pair (3DOP)'
EXAMPLES = """\
  pdl_jax propose --generate=4 --kitti=data/cuboids --output=boxes
  pdl_jax propose --kitti=KITTI --names=train.txt --fit=models.json
  pdl_jax propose --kitti=KITTI --names=val.txt --models=models.json --evaluate --output=recall
  pdl_jax propose --calibration=calib.txt --image=left.png --right_image=right.png --output=boxes"""

# Flags of a single frame that name its files, and the source that each means.
_FILES = {'lidar': 'lidar', 'depth': 'depth', 'right_image': 'stereo'}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    _add_input_flags(parser)
    work = parser.add_argument_group('work')
    work.add_argument('--output', metavar='DIR', help='folder of the results, local or gs://')
    work.add_argument(
        '--models', metavar='FILE', help='what --fit wrote (default: sizes of KITTI, not fitted)'
    )
    work.add_argument('--fit', metavar='FILE', help='learn from the labels, and write this file')
    add_switch(work, 'evaluate', help='write and print the recall of labelled objects')
    work.add_argument(
        '--classes',
        nargs='+',
        metavar='CLASS',
        help='some of the classes (default: those of --models; Car Pedestrian Cyclist)',
    )
    work.add_argument(
        '--difficulty',
        choices=('easy', 'moderate', 'hard'),
        default='moderate',
        help='objects that count in --evaluate (default: %(default)s)',
    )
    add_switch(work, 'pictures', default=True, help='write pictures (default: true)')
    numbers = parser.add_argument_group('numbers')
    for name, kind, default, text in (
        ('num_proposals', _count, 2000, 'boxes per class at most'),
        ('num_candidates', _count, 32768, 'best boxes per class that compete'),
        ('max_overlap', float, 0.75, 'IoU in the image above which the worse box is dropped'),
        ('num_drawn', _count, 5, 'boxes per class in pictures'),
        ('num_templates', _count, 3, 'sizes per class that --fit makes'),
        ('regularization', float, 100.0, 'C of the SVM of --fit'),
        ('range_m', float, 70.0, 'extent of the grid ahead'),
        ('width_m', float, 80.0, 'extent of the grid across'),
    ):
        text = f'{text} (default: {default:g})'
        numbers.add_argument(f'--{name}', type=kind, default=default, help=text)


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group('frames of a data set')
    many.add_argument('--kitti', metavar='DIR', help='folder that holds training/image_2 etc.')
    many.add_argument(
        '--part', choices=('training', 'testing'), default='training', help='(default: training)'
    )
    many.add_argument('--names', metavar='FILE', help='names of the frames to take, one per line')
    many.add_argument(
        '--source',
        choices=('lidar', 'stereo', 'depth'),
        default='lidar',
        help='where points come from: velodyne, image_2 with image_3, or depth_2 (default: lidar)',
    )
    many.add_argument(
        '--generate', type=_count, metavar='N', help='first write N generated frames to --kitti'
    )
    many.add_argument(
        '--generate_px',
        type=_size,
        default=(375, 1242),
        metavar='HxW',
        help='size of generated images (default: 375x1242)',
    )
    one = parser.add_argument_group('one frame')
    one.add_argument('--calibration', metavar='FILE', help="its calib.txt, in KITTI's format")
    one.add_argument('--image', metavar='FILE', help='its left image')
    one.add_argument('--lidar', metavar='FILE', help="points in KITTI's format (.bin)")
    one.add_argument('--depth', metavar='FILE', help='PNG of 16 bits, depth in 1/256 m')
    one.add_argument('--right_image', metavar='FILE', help='right image of a rectified pair')


def run(flags: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: flags contradict each other, or a file is damaged.
      ImportError: the source is a pair, and OpenCV is not installed.
      OSError: a result cannot be written.
    """
    _check(flags)
    from pdl_jax.commands.processes import announce, set_up_memory

    announce(f'proposing boxes for {flags.kitti or flags.image}')
    set_up_memory()
    from pdl_jax.proposals.generated import generate_frames
    from pdl_jax.proposals.options import GridOptions, ProposalOptions

    half_m = flags.width_m / 2
    options = ProposalOptions(
        GridOptions(x_m=(-half_m, half_m), z_m=(0.0, flags.range_m)),
        num_proposals=flags.num_proposals,
        num_candidates=flags.num_candidates,
        max_overlap=flags.max_overlap,
    )
    if flags.generate:
        generate_frames(flags.kitti, num_frames=flags.generate, size=flags.generate_px)
        print(f'wrote {flags.generate} generated frames to {flags.kitti}/training')
    frames, source = _find_frames(flags)
    if flags.fit:
        _fit(flags, frames, source, options)
    elif flags.output:
        from pdl_jax.proposals.frame_runs import propose_frames

        propose_frames(
            frames,
            source,
            _read_models(flags, options),
            options,
            output=flags.output,
            difficulty=flags.difficulty if flags.evaluate else None,
            num_drawn=flags.num_drawn if flags.pictures else 0,
        )


def _check(flags: argparse.Namespace) -> None:
    """Refuses flags that contradict each other, before anything takes time."""
    single = [name for name in _FILES if getattr(flags, name)]
    if bool(flags.kitti) == bool(flags.calibration):
        raise ValueError('give either --kitti=DIR, or --calibration and the files of one frame')
    if flags.calibration and (not flags.image or len(single) != 1):
        raise ValueError('one frame needs --image, and one of --lidar, --depth and --right_image')
    if flags.kitti and (flags.image or single):
        name = 'image' if flags.image else single[0]
        raise ValueError(f'--{name} belongs to --calibration; --kitti takes --source')
    if flags.calibration and (flags.fit or flags.evaluate or flags.generate):
        raise ValueError('--fit, --evaluate and --generate need --kitti=DIR')
    if flags.fit and (flags.evaluate or flags.models):
        raise ValueError('--fit goes alone: evaluate with --models in a second command')
    if not (flags.output or flags.fit or flags.generate) or (flags.evaluate and not flags.output):
        raise ValueError('nothing is to be written: give --output=DIR, or --fit=FILE')


def _find_frames(flags: argparse.Namespace) -> 'tuple[list[FrameFiles], str]':
    """Returns the files of the frames, and the source of their points."""
    from pdl_jax.proposals.kitti import FrameFiles, list_frames
    from pdl_jax.storage.paths import make_path

    if flags.kitti:
        return list_frames(flags.kitti, part=flags.part, names_path=flags.names), flags.source
    name = next(name for name in _FILES if getattr(flags, name))
    image = make_path(flags.image)
    paths = {'image': image, name: make_path(getattr(flags, name))}
    return [FrameFiles(image.stem, make_path(flags.calibration), **paths)], _FILES[name]


def _read_models(flags: argparse.Namespace, options: 'ProposalOptions') -> 'dict[str, ClassModel]':
    """Reads the models of the classes that are asked for."""
    from pdl_jax.proposals.class_model import DEFAULT_MODELS
    from pdl_jax.proposals.model_file import read_models
    from pdl_jax.typing import suggest

    models = read_models(flags.models, options.grid) if flags.models else dict(DEFAULT_MODELS)
    for name in flags.classes or ():
        if name not in models:
            raise ValueError(
                f'--classes={name} has no model; {suggest(name, models)}choose some of '
                f'{", ".join(models)}, or fit one'
            )
    return {name: models[name] for name in flags.classes or models}


def _fit(
    flags: argparse.Namespace,
    frames: 'list[FrameFiles]',
    source: str,
    options: 'ProposalOptions',
) -> None:
    from pdl_jax.proposals.fitting import FitOptions
    from pdl_jax.proposals.frame_runs import fit_frames

    fit_frames(
        frames,
        source,
        flags.classes or ['Car', 'Pedestrian', 'Cyclist'],
        options,
        FitOptions(flags.num_templates, flags.regularization),
        output=flags.fit,
    )


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f'{text} must lie in 1 .. 100000')
    return number


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal()) or not (
        16 <= int(height) <= 4096 and 16 <= int(width) <= 4096
    ):
        raise argparse.ArgumentTypeError(f'{text} must be HEIGHTxWIDTH, 16 to 4096 pixels each')
    return int(height), int(width)
