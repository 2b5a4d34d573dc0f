"""Predicts a video or a camera frame by frame; objects keep their numbers.

The frames are decoded, predicted, drawn and encoded one at a time, so that memory does not grow
with the video. An object has one number, and one shade, as long as it is seen: it is found again in
the next frame by the overlap of its mask, moved on by its motion, with the new ones. Interrupting
the command (Ctrl+C) ends the video there. Needs PyAV: pip install 'pdl_jax[video]'.
"""

import argparse

from pdl_jax.commands.predictor_flags import (
    STYLE,
    add_checkpoint_flags,
    add_style_flags,
    add_threshold_flags,
    list_given,
    list_options,
)
from pdl_jax.commands.processes import announce, set_up_prediction, show_own_messages

SUMMARY = 'predict a video or a camera: an overlay video, objects numbered through'
EXAMPLES = """\
  pdl_jax video --checkpoint=runs/cityscapes --input=drive.mp4 --output=drive_overlay.mp4
  pdl_jax video --checkpoint=runs/cityscapes --input=drive.mp4 --output=drive_overlay.mp4 \\
      --segments=drive.csv --every=5 --max_seconds=60
  pdl_jax video --checkpoint=runs/coco --input=camera --output=desk.mp4 --max_seconds=30"""

# Fields of `TrackOptions` that have flags.
_TRACKING = {
    'min_iou': (float, 'smallest IoU of an object with its moved mask (default: 0.3)'),
    'min_containment': (
        float,
        'share of the smaller mask that links half-hidden objects; 1 for none (default: 0.6)',
    ),
    'max_gap': (int, 'frames that an object may be missing and keep its number (default: 5)'),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_checkpoint_flags(parser)
    parser.add_argument(
        '--input', required=True, help="a video file, or 'camera', 'camera:1', ... of this machine"
    )
    parser.add_argument('--output', help='the video of overlays: .mp4, .mkv or .mov')
    parser.add_argument(
        '--segments', help='the segments of each frame: .jsonl (a line per frame) or .csv'
    )
    parser.add_argument('--every', type=int, default=1, help='predict each n-th frame only')
    parser.add_argument(
        '--max_seconds', type=float, default=0.0, help='end after so much of the video'
    )
    tracking = parser.add_argument_group('tracking')
    for name, (kind, text) in _TRACKING.items():
        tracking.add_argument(f'--{name}', type=kind, help=text)
    add_threshold_flags(parser)
    add_style_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if not flags.output and not flags.segments:
        raise ValueError('nothing is to be written: give --output, --segments or both')
    show_own_messages()
    announce(f'predicting {flags.input} with {" and ".join(flags.checkpoint)}')
    import dataclasses
    import functools
    import os

    from pdl_jax.data.videos import import_av
    from pdl_jax.prediction.predictor import Predictor
    from pdl_jax.prediction.tracking import TrackOptions
    from pdl_jax.prediction.video import VIDEO_STYLE, predict_video

    for written in filter(None, (flags.output, flags.segments)):
        if os.path.realpath(written) == os.path.realpath(flags.input):
            raise ValueError(f'{written} is the input: give another name')
    import_av()
    options = TrackOptions(**list_given(flags, _TRACKING))
    style = dataclasses.replace(VIDEO_STYLE, **list_given(flags, STYLE))
    set_up_prediction()
    predictor = Predictor.load(flags.checkpoint, step=flags.step, **list_options(flags))
    summary = predict_video(
        predictor,
        flags.input,
        flags.output or '',
        segments=flags.segments or '',
        options=options,
        style=style,
        every=flags.every,
        max_seconds=flags.max_seconds,
        say=functools.partial(print, flush=True),
    )
    print(f'{summary.num_objects} objects in {summary.num_frames} frames')
    if summary.num_damaged:
        print(f'{summary.num_damaged} parts of {flags.input} are damaged and were left out')
