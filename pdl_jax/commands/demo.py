"""Serves a page that predicts images, for people and for programs.

People upload an image or take one with the camera, point at a segment to read its class, score and
area, show and hide things, stuff, void, centres and offsets, and download the overlay, the ids and
the segments. Programs call the endpoint /predict, as the page's footer shows. The page is served to
this machine alone unless --host says otherwise; it loads nothing from other hosts and reports to
nobody. One image is predicted at a time. Needs Gradio: pip install 'pdl_jax[demo]'.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

from pdl_jax.commands.checkpoint_flags import add_step_flag
from pdl_jax.commands.command_line import ALLOW_CODE_HELP, add_switch
from pdl_jax.commands.processes import announce, set_up_prediction, show_own_messages

SUMMARY = 'a page that predicts what is uploaded, with an API for programs'
EXAMPLES = """\
  pdl_jax demo --checkpoint=nuclei
  pdl_jax demo --checkpoint=runs/coco --step=best --port=8000 --max_megapixels=4
  pdl_jax demo --checkpoint=runs/coco --host=0.0.0.0  # for everybody who reaches this machine"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        '--checkpoint',
        required=True,
        help='a workdir or one step of it, local or gs://, or a name of `pdl_jax weights`',
    )
    add_step_flag(parser)
    parser.add_argument('--host', default='127.0.0.1', help='address to serve (127.0.0.1)')
    parser.add_argument('--port', type=int, default=7860, help='0 takes a free one (7860)')
    limits = parser.add_argument_group('limits')
    limits.add_argument(
        '--max_megabytes', type=float, default=32, help='largest file, in 2**20 bytes (32)'
    )
    limits.add_argument(
        '--max_megapixels', type=float, default=16, help='largest image, in 10**6 pixels (16)'
    )
    limits.add_argument(
        '--max_waiting', type=int, default=128, help='most requests that wait (128)'
    )
    add_switch(parser, 'allow_code', help=ALLOW_CODE_HELP)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    show_own_messages()
    from pdl_jax.prediction.uploads import UploadLimits

    limits = UploadLimits(
        max_bytes=round(flags.max_megabytes * 2**20),
        max_pixels=round(flags.max_megapixels * 1e6),
        max_waiting=flags.max_waiting,
    )
    from pdl_jax.prediction.demo import import_gradio, make_demo
    from pdl_jax.prediction.demo_server import make_server, open_socket
    from pdl_jax.prediction.predictor import Predictor

    with _make_folder() as folder:
        # Before the checkpoint is read, which takes longer.
        import_gradio(folder)
        listener = open_socket(flags.host, flags.port)
        announce(f'loading {flags.checkpoint}')
        set_up_prediction()
        predictor = Predictor.load(flags.checkpoint, step=flags.step, allow_code=flags.allow_code)
        name = os.path.basename(os.path.normpath(flags.checkpoint))
        blocks = make_demo(predictor, limits, title=name, folder=folder)
        host, port = listener.getsockname()[:2]
        server = make_server(blocks, host=host, port=port, max_bytes=limits.max_bytes)
        shown = f'[{host}]' if ':' in host else host
        print(f'serving http://{shown}:{port} until Ctrl+C', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def _make_folder() -> Iterator[str]:
    """Makes a folder for uploads and results, which SIGTERM removes too."""
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix='pdl_jax_demo_') as folder:
            yield folder
    finally:
        signal.signal(signal.SIGTERM, former)
