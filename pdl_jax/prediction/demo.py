"""A page that predicts what is uploaded, for people and, by its API, for programs."""

import html
import importlib
import json
import os
import tempfile
import time
from typing import Any

from etils import epath

from pdl_jax.prediction.image_list import stem_of
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.result_files import write_result
from pdl_jax.prediction.uploads import UploadLimits, predict_upload

# Uploads and results are deleted when they are so old; they are looked through as often.
_KEEP_SECONDS = 3600
STYLE = """
#view iframe { width: 100%; height: calc(100vh - 10rem); min-height: 26rem; display: block;
  border: 1px solid var(--border-color-primary); border-radius: .5rem; }
#view p { margin: 0 0 .5rem; font-weight: 600; }
#limits { font-size: .8rem; opacity: .7; }
#view .empty, #view .failed { padding: 4rem 2rem; text-align: center; border-radius: .5rem;
  border: 1px dashed var(--border-color-primary); }
#view .failed { border: 1px solid #c33; color: #c33; padding: 2rem; overflow-wrap: anywhere; }
"""
_EMPTY = '<div class="empty">Choose an image, or drop one: its segments appear here.</div>'
# All requests share one queue, as they share one network.
_ONE_AT_A_TIME = {'concurrency_limit': 1, 'concurrency_id': 'predict'}


def import_gradio(folder: str) -> Any:
    """Imports Gradio so that it reports to nobody.

    Args:
      folder: the place of uploads and results.

    Raises:
      ImportError: it is not installed.
    """
    # Gradio reads these when it is imported.
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'
    os.environ['GRADIO_TEMP_DIR'] = folder
    try:
        return importlib.import_module('gradio')
    except ImportError as error:
        raise ImportError(
            f"the page needs Gradio ({error.name} is missing): pip install 'pdl_jax[demo]', or "
            f'pip install gradio'
        ) from error


def make_demo(predictor: Predictor, limits: UploadLimits, *, title: str, folder: str) -> Any:
    """Makes the page.

    One image is predicted at a time; others wait. The API has one endpoint, /predict: an image
    file, and whether its overlay is drawn too, to the content of `predict`'s NAME.json and the
    files NAME_panoptic.png and NAME_overlay.png.

    Args:
      predictor: the network.
      limits: what is refused.
      title: text at the top.
      folder: the place of uploads and results.

    Returns:
      gradio.Blocks.

    Raises:
      ImportError: Gradio is not installed.
    """
    gr = import_gradio(folder)
    service = _Service(gr, predictor, limits, folder)
    with gr.Blocks(
        title=f'pdl_jax: {title}',
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(_KEEP_SECONDS, _KEEP_SECONDS),
    ) as blocks:
        gr.Markdown(f'### pdl_jax · {title}')
        _add_page(gr, service, limits, has_outputs=not predictor.is_semantic)
        _add_endpoint(gr, service)
    return blocks.queue(max_size=limits.max_waiting, default_concurrency_limit=1)


def _add_page(gr: Any, service: '_Service', limits: UploadLimits, *, has_outputs: bool) -> None:
    """Adds what people see: inputs and downloads on the left, the segments on the right."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            with gr.Tab('File'):
                upload = _guard(gr, gr.File(label='Image', height=150))
            with gr.Tab('Camera'):
                photo = gr.Image(sources=['webcam'], type='filepath', label='Camera', height=260)
                photo = _guard(gr, photo)
            gr.HTML(_describe_limits(limits), elem_id='limits')
            wants_outputs = gr.Checkbox(
                has_outputs,
                label='Centres and offsets too',
                info='The network runs twice for them.',
                visible=has_outputs,
            )
            with gr.Row():
                buttons = [
                    gr.DownloadButton(text, interactive=False, size='sm', min_width=60)
                    for text in ('Overlay', 'Ids', 'JSON')
                ]
        with gr.Column(scale=4, min_width=500):
            view = gr.HTML(_EMPTY, elem_id='view')
    for source, listen in ((upload, upload.upload), (photo, photo.input)):
        listen(
            service.show,
            [source, wants_outputs],
            [view, *buttons],
            api_visibility='private',
            show_progress_on=view,
            **_ONE_AT_A_TIME,
        )


def _add_endpoint(gr: Any, service: '_Service') -> None:
    """Adds what programs call, with components of its own that nobody sees."""
    image = _guard(gr, gr.File(visible=False, label='image'))
    overlay = gr.Checkbox(False, visible=False, label='overlay')
    segments = gr.JSON(visible=False, label='segments')
    files = [gr.File(visible=False, label=text) for text in ('panoptic', 'overlay')]
    gr.Button(visible=False).click(
        service.answer,
        [image, overlay],
        [segments, *files],
        api_name='predict',
        api_description='Predicts an image file.',
        **_ONE_AT_A_TIME,
    )


class _Service:
    """The functions behind the page and the API."""

    def __init__(self, gr: Any, predictor: Predictor, limits: UploadLimits, folder: str) -> None:
        self._gr = gr
        self._predictor = predictor
        self._limits = limits
        self._folder = folder

    def show(self, path: str | None, has_outputs: bool) -> list[Any]:
        """Answers the page: its view, and the files of three buttons."""
        button = self._gr.DownloadButton
        off = [button(value=None, interactive=False)] * 3
        if path is None:
            return [_EMPTY, *off]
        start = time.monotonic()
        try:
            result = self._predict(path, has_outputs)
            seconds = time.monotonic() - start
            files = self._write(result, ('overlay', 'ids', 'json'))
        except ValueError as error:
            return [f'<div class="failed" role="alert">{html.escape(str(error))}</div>', *off]
        height, width = result.panoptic.shape
        summary = f'{result.summary} · {width} x {height} px · {seconds:.1f} s'
        # A page of its own origin: names in it can do nothing to this one.
        frame = f'<iframe sandbox="allow-scripts" title="segments" srcdoc="{_quote(result)}">'
        view = f'<p>{html.escape(summary)}</p>{frame}</iframe>'
        return [view, *(button(value=file, interactive=True) for file in files)]

    def answer(self, image: str | None, overlay: bool = False) -> list[Any]:
        """Answers the API: the JSON values, the id PNG, the overlay or None."""
        if image is None:
            raise self._gr.Error('no image was given', print_exception=False)
        try:
            result = self._predict(image, False)
            kinds = ('ids', 'overlay') if overlay else ('ids',)
            files = [*self._write(result, kinds), None]
        except ValueError as error:
            raise self._gr.Error(str(error), print_exception=False) from error
        return [json.loads(result.encode('json')), *files[:2]]

    def _predict(self, path: str, has_outputs: bool) -> PanopticResult:
        return predict_upload(self._predictor, path, self._limits, keep_outputs=has_outputs)

    def _write(self, result: PanopticResult, kinds: tuple[str, ...]) -> list[str]:
        """Writes files; returns them in the order of `kinds`."""
        folder = epath.Path(tempfile.mkdtemp(prefix='result_', dir=self._folder))
        stem = stem_of(result.name) or 'image'
        return [
            os.fspath(path) for kind in kinds for path in write_result(result, folder, stem, [kind])
        ]


def _guard(gr: Any, component: Any) -> Any:
    """Makes an input whose file nothing but `predict_upload` opens.

    Methods are replaced on the object: of a class of one's own Gradio writes a stub beside the
    source.
    """
    move = component.async_move_resource_to_block_cache

    async def take_uploaded(path: str | os.PathLike | None) -> str | None:
        # Gradio would download addresses.
        if path is not None and '://' in os.fspath(path):
            raise gr.Error('addresses are not read: upload the file', print_exception=False)
        return await move(path)

    def hand_on(payload: Any) -> str | None:
        # Gradio would decode images, without limits.
        return None if payload is None else payload.path

    component.async_move_resource_to_block_cache = take_uploaded
    component.preprocess = hand_on
    return component


def _describe_limits(limits: UploadLimits) -> str:
    megabytes, megapixels = limits.max_bytes / 2**20, limits.max_pixels / 1e6
    return (
        f'JPEG, PNG, BMP, WebP or TIFF of up to {megabytes:.3g} MB and {megapixels:.3g} '
        f'megapixels. The first image of each size takes longer.'
    )


def _quote(result: PanopticResult) -> str:
    return html.escape(result.encode('html').decode(), quote=True)
