"""Copies a checkpoint from a bucket or the Hugging Face Hub, and checks it.

The directory is a workdir for --checkpoint of every command. Names, sizes and checksums are checked
first; whatever ends the command, a directory of that name is complete or not there. Loading it
runs no code, unless --allow_code says so. hf://USER/NAME@REVISION names a branch, a tag or a
commit. The Hub needs `pip install 'pdl_jax[hub]'`, gs:// needs 'pdl_jax[gcs]'.
"""

import argparse

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.processes import announce

SUMMARY = 'a checkpoint from gs:// or the Hugging Face Hub'
EXAMPLES = """\
  pdl_jax pull hf://USER/nuclei nuclei
  pdl_jax pull gs://BUCKET/runs/coco coco --step=90000
  pdl_jax predict --checkpoint=nuclei --images='photos/*.png' --output=predictions"""
SCHEMES = ('hf',)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        'source', help='gs://BUCKET/PATH, also of a run, or hf://USER/NAME[@REVISION]'
    )
    parser.add_argument('directory', help='the directory to make')
    add_step_flag(parser)
    parser.add_argument(
        '--max_gigabytes', type=float, default=16, help='refuse more, in 2**30 bytes (16)'
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    announce(f'pulling {flags.source}')
    from pdl_jax.storage.sharing import pull

    directory = pull(
        flags.source,
        flags.directory,
        step=flags.step,
        max_bytes=round(flags.max_gigabytes * 2**30),
    )
    print(f'pulled {flags.source} to {directory}')
