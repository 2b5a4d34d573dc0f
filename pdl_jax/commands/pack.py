"""Writes a checkpoint without the state of its training: small enough to hand on.

The averaged variables, if the run kept any, its configuration, classes and score, and the options
that `evaluate --tune` found. With --dtype=float16 the kernels take half the space; they are
computed with in the dtype of the network all the same.
"""

import argparse

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.processes import announce

SUMMARY = 'a checkpoint without its training state, to hand on'
EXAMPLES = """\
  pdl_jax pack --checkpoint=runs/nuclei --step=best --output=nuclei --dtype=float16
  pdl_jax predict --checkpoint=nuclei --images='photos/*.png' --output=predictions"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        '--checkpoint', required=True, help='workdir of a run or one step of it; or gs://'
    )
    add_step_flag(parser)
    parser.add_argument('--output', required=True, help='directory of the new one; or gs://')
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=('float32', 'bfloat16', 'float16'),
        help='of kernels; what has one axis stays as it is',
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    announce(f'packing {flags.checkpoint}')
    from pdl_jax.prediction.pack import pack

    written = pack(flags.checkpoint, flags.output, step=flags.step, dtype=flags.dtype)
    print(f'wrote {written}')
