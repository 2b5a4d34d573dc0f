"""Flags of the commands that predict: the network, its thresholds, and the look of pictures."""

import argparse
from collections.abc import Iterable
from typing import Any

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.command_line import ALLOW_CODE_HELP, add_switch

# Options of the system that have flags, see `Predictor.load`.
POSTPROCESS = {
    'min_score': (float, 'lowest score of a thing; the pixels of others become void'),
    'min_area_px': (int, 'smallest area of a thing in pixels; others become void'),
    'stuff_area_limit_px': (int, 'smallest area of a stuff class in pixels of the network input'),
    'center_threshold': (float, 'lowest heat of an instance centre'),
    'nms_kernel_px': (int, 'window in which a centre must be the maximum, in pixels'),
    'max_centers': (int, 'most instances of an image'),
}
# Fields of `PictureStyle` that have flags.
STYLE = {
    'palette': (str, 'colours of classes: given (default), or colorblind'),
    'contrast': (
        str,
        'auto (default: brighten dark and flat images), stretch (all images) or none',
    ),
    'alpha': (float, 'share of the colours over the image (default: 0.5)'),
    'min_side_px': (
        int,
        'enlarge smaller pictures to about this side, so that names can be read (default: 640)',
    ),
}


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose the network, and how it looks at an image."""
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        action='extend',
        required=True,
        help='a workdir or one step of it, local or gs://; the outputs of several of the same '
        'classes are averaged',
    )
    add_step_flag(parser)
    parser.add_argument(
        '--scales', type=float, nargs='+', help='average over the image at these scales'
    )
    add_switch(parser, 'flip', default=None, help='average over the mirror image too')
    add_crf_flag(parser)
    add_switch(parser, 'allow_code', help=ALLOW_CODE_HELP)


def add_crf_flag(parser: Any) -> None:
    """Adds --crf to a parser or a group of one."""
    parser.add_argument(
        '--crf',
        metavar='NAME',
        help='refine the classes of pixels by a dense CRF: voc_v2, voc_v1 or pydensecrf '
        "(default: the run's, config.evaluate.crf)",
    )


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that decide what counts as a segment."""
    thresholds = parser.add_argument_group(
        'segments', 'by default as `evaluate --tune` found, or else as in training'
    )
    for name, (kind, text) in POSTPROCESS.items():
        thresholds.add_argument(f'--{name}', type=kind, help=text)
    add_switch(thresholds, 'tuned', default=True, help='use what `evaluate --tune` found')


def add_style_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `PictureStyle`."""
    pictures = parser.add_argument_group('pictures')
    for name, (kind, text) in STYLE.items():
        pictures.add_argument(f'--{name}', type=kind, help=text)


def list_options(flags: argparse.Namespace) -> dict[str, Any]:
    """Lists the arguments of `Predictor.load` that these flags give."""
    return {
        'scales': flags.scales,
        'is_flipped': flags.flip,
        'crf': flags.crf,
        'is_tuned': flags.tuned,
        'allow_code': flags.allow_code,
        **list_given(flags, POSTPROCESS),
    }


def list_given(flags: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Lists the flags of these names that were given."""
    given = {name: getattr(flags, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}
