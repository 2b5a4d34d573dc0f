"""Copies a checkpoint to a bucket or to the Hugging Face Hub, for others to pull.

The checkpoint of one step is copied as it is, so pack it first: that leaves out the state of its
training, which takes most of the space, and the paths of this machine. README.md beside it is its
model card: the workdir's own, or one made of the checkpoint's classes and metrics. A bucket must
hold no checkpoint at that path; on the Hub a new commit takes the place of the older checkpoint.
The Hub needs `pip install 'pdl_jax[hub]'` and a token, from `hf auth login` or the variable
HF_TOKEN; gs:// needs 'pdl_jax[gcs]'.
"""

import argparse

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.command_line import add_switch
from pdl_jax.commands.processes import announce

SUMMARY = 'a checkpoint to gs:// or the Hugging Face Hub'
EXAMPLES = """\
  pdl_jax pack --checkpoint=runs/nuclei --step=best --output=nuclei --dtype=float16
  pdl_jax push nuclei gs://BUCKET/nuclei
  pdl_jax push nuclei hf://USER/nuclei"""
SCHEMES = ('hf',)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument('source', help='workdir or one step of it, or a name of `pdl_jax weights`')
    parser.add_argument('target', help='gs://BUCKET/PATH or hf://USER/NAME')
    add_step_flag(parser)
    add_switch(parser, 'private', help='a repository that is made on the Hub is for you alone')


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    announce(f'pushing {flags.source}')
    from pdl_jax.prediction.model_card import find_card
    from pdl_jax.storage.sharing import push

    card = find_card(flags.source, flags.step, address=flags.target)
    step = push(flags.source, flags.target, step=flags.step, card=card, is_private=flags.private)
    print(f'pushed step {step} of {flags.source} to {flags.target}')
