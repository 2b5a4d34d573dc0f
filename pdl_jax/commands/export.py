"""Exports a checkpoint for other programs: StableHLO, ONNX, OpenVINO or TensorFlow's SavedModel.

The files take u8 images [B, H, W, 3] and return panoptic maps and tables of their segments; the
resize, the normalisation and the whole post-processing are inside. Each export is run and compared
with the predictor on images, and kept only if they agree: the same panoptic maps for StableHLO, at
least 99.9 % of the pixels for the others. examples/ has a loader for every format.
"""

import argparse
import functools
from typing import Any

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.command_line import ALLOW_CODE_HELP, add_switch
from pdl_jax.commands.predictor_flags import add_crf_flag
from pdl_jax.commands.processes import announce, set_up_prediction, show_own_messages

SUMMARY = 'export a checkpoint to StableHLO, ONNX, OpenVINO or SavedModel'
EXAMPLES = """\
  pdl_jax export --checkpoint=runs/coco --format=onnx --output=coco_onnx
  pdl_jax export --checkpoint=nuclei --format=openvino --output=nuclei_openvino \\
      --height_px=513 --width_px=513 --images 'photos/*.png'
  pdl_jax export --checkpoint=runs/coco --format=stablehlo --output=coco_tpu --platform=tpu \\
      --batch_size=any --dtype=bfloat16"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        '--checkpoint', required=True, help='a workdir or one step of it, local or gs://'
    )
    add_step_flag(parser)
    parser.add_argument(
        '--format', required=True, choices=('stablehlo', 'onnx', 'openvino', 'savedmodel')
    )
    parser.add_argument('--output', required=True, help='folder of the files, which must be new')
    parser.add_argument(
        '--height_px', type=int, help='height of the images (default: the training crop)'
    )
    parser.add_argument('--width_px', type=int, help='width of the images, likewise')
    add_switch(parser, 'any_size', help='take smaller images too, each call of one size; pads them')
    parser.add_argument(
        '--batch_size',
        type=_parse_batch_size,
        default=1,
        metavar='N|any',
        help='images of a call (default: 1)',
    )
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'int8'),
        help='of stored kernels; bfloat16 computes in it too where the format can',
    )
    parser.add_argument(
        '--platform',
        choices=('cpu', 'tpu', 'cuda', 'rocm'),
        help='refuse to export StableHLO or SavedModel for another one than this',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        action='extend',
        default=[],
        help='files, folders or quoted patterns to compare on (default: generated scenes)',
    )
    parser.add_argument('--min_score', type=float, help='lowest score of a thing, see predict')
    add_crf_flag(parser)
    add_switch(parser, 'tuned', default=True, help='use what `evaluate --tune` found')
    add_switch(parser, 'allow_code', help=ALLOW_CODE_HELP)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if (flags.height_px is None) != (flags.width_px is None):
        raise ValueError('--height_px and --width_px go together: give both')
    announce(f'exporting {flags.checkpoint} to {flags.format}')
    show_own_messages()
    from pdl_jax.prediction.export.export import ExportOptions, export
    from pdl_jax.prediction.image_list import find_images
    from pdl_jax.prediction.predictor import Predictor

    options = ExportOptions(
        format=flags.format,
        size=None if flags.height_px is None else (flags.height_px, flags.width_px),
        batch_size=flags.batch_size,
        is_any_size=flags.any_size,
        dtype=flags.dtype,
        platform=flags.platform,
    )
    set_up_prediction()
    postprocess: dict[str, Any] = {}
    if flags.min_score is not None:
        postprocess['min_score'] = flags.min_score
    load = functools.partial(
        Predictor.load,
        flags.checkpoint,
        step=flags.step,
        crf=flags.crf,
        is_tuned=flags.tuned,
        allow_code=flags.allow_code,
        **postprocess,
    )
    export(load, options, flags.output, images=find_images(flags.images))
    print(f'wrote {flags.output}')


def _parse_batch_size(text: str) -> int | None:
    if text == 'any':
        return None
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text} must be a positive number or any')
    return int(text)
