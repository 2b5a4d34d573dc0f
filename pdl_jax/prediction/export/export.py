"""From a checkpoint to an export: written, run, compared with the predictor, and only then kept.

    DIR/model.*             the program, or saved_model/; see the module of the format
    DIR/description.json    its inputs and outputs, its classes, and the comparison

Everything is written to a folder beside DIR first, which is renamed when the comparison has passed.
"""

import dataclasses
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

import pdl_jax
from pdl_jax.data.scenes.dataset import render_scene
from pdl_jax.ops.platforms import PLATFORMS, name_platform
from pdl_jax.prediction.export.comparison import (
    Agreement,
    Run,
    check_agreement,
    check_narrow_agreement,
    compare,
    predict_batches,
    run_batches,
)
from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram
from pdl_jax.prediction.export.weights import DTYPES, restore_variables, store_variables
from pdl_jax.prediction.image_files import read_image
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.runtime.progress import stage
from pdl_jax.storage.paths import explain_write_errors, is_remote

# Format -> module with NAME, IS_EXACT (the maps must be identical), IS_OPAQUE (see `ImageProgram`),
# write(program, batch_size, folder, platform) and load(folder).
FORMATS = {
    'stablehlo': 'pdl_jax.prediction.export.stablehlo',
    'onnx': 'pdl_jax.prediction.export.onnx_file',
    'openvino': 'pdl_jax.prediction.export.openvino_files',
    'savedmodel': 'pdl_jax.prediction.export.saved_model',
}
DESCRIPTION = 'description.json'
_NUM_SCENES = 4
# Images that a program for batches of any size is compared on at once, besides single ones.
_SYMBOLIC_BATCH = 2


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """The kind of an export.

    Attributes:
      format: one of `FORMATS`.
      size: (height, width) of the images in pixels; None for the training crop.
      batch_size: number of images; None for any.
      is_any_size: images of any size up to `size`, which are padded to it.
      dtype: see `weights.DTYPES`. 'bfloat16' computes in it too where the format can.
      platform: whose implementations StableHLO and SavedModel hold; it must be this machine's.
    """

    format: str
    size: tuple[int, int] | None = None
    batch_size: int | None = 1
    is_any_size: bool = False
    dtype: str = 'float32'
    platform: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (('format', tuple(FORMATS)), ('dtype', DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f'{name} (={getattr(self, name)!r}) must be one of {choices}')
        if self.platform is not None and self.platform not in PLATFORMS:
            raise ValueError(f'platform (={self.platform!r}) must be one of {PLATFORMS}')
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f'batch_size (={self.batch_size}) must be positive')
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f'size (={self.size}) must be positive')

    @property
    def compute_dtype(self) -> str:
        """The dtype of activations of the predictor that the export must agree with."""
        is_narrow = self.dtype == 'bfloat16' and self.format in ('stablehlo', 'savedmodel')
        return 'bfloat16' if is_narrow else 'float32'


def export(
    load: Callable[..., Predictor],
    options: ExportOptions,
    output: str,
    *,
    images: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Agreement:
    """Exports a system and compares the files with the predictor.

    Args:
      load: loads the predictor; its argument `dtype` is that of activations.
      options: the kind of the export.
      output: folder to write, which must not exist or be empty.
      images: paths of images to compare on; by default some generated scenes. Images of another
        size are resized.
      say: called with each line on progress.

    Returns:
      The agreement with the predictor.

    Raises:
      FileExistsError: the output holds files.
      ImportError: an extra is not installed.
      RuntimeError: the files disagree with the predictor; nothing is left of them.
      ValueError: the system or an image cannot be exported.
    """
    folder = epath.Path(os.path.expanduser(output))
    _check_output(folder)
    platform = name_platform(jax.default_backend())
    if options.platform not in (None, platform):
        raise ValueError(
            f'platform (={options.platform!r}) cannot be compared with the predictor on this '
            f'machine, which has {platform!r}: export it where one is'
        )
    predictor = load(dtype=options.compute_dtype)
    stored = store_variables(jax.device_get(predictor.variables), options.dtype)
    predictor = predictor.with_variables(jax.device_get(restore_variables(stored)))
    form = importlib.import_module(FORMATS[options.format])
    program = _make_program(predictor, stored, options, is_opaque=form.IS_OPAQUE)
    samples = _read_samples(images, predictor, options.size or predictor.crop_size, options)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(folder):
        staging = epath.Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    try:
        with stage(f'writing {options.format}'), explain_write_errors(folder):
            form.write(program, options.batch_size, staging, platform)
        agreement = _check(predictor, program, form, staging, samples, options, say, load)
        description = _describe(predictor, program, options, agreement)
        (staging / DESCRIPTION).write_text(f'{json.dumps(description, indent=1)}\n')
        if folder.exists():
            folder.rmdir()
        # Folders of mkdtemp are the user's only.
        os.chmod(staging, 0o755)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return agreement


def _check_output(folder: epath.Path) -> None:
    if is_remote(folder):
        raise ValueError(f'--output={folder} must be a local folder: copy it to the bucket')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{folder} holds files: choose another --output')


def _make_program(
    predictor: Predictor, stored: Any, options: ExportOptions, *, is_opaque: bool
) -> ImageProgram:
    size = options.size or predictor.crop_size
    canvas = predictor.canvas_size(size)
    return ImageProgram(
        predictor.make_inference(canvas),
        stored,
        canvas,
        None if options.is_any_size else size,
        predictor.pixels.num_channels,
        options.dtype,
        is_opaque,
    )


def _read_samples(
    paths: Sequence[str], predictor: Predictor, size: tuple[int, int], options: ExportOptions
) -> list[np.ndarray]:
    """Reads or renders images, u8[H, W, C], of a size, or not larger than it."""
    height, width = size
    channels = predictor.pixels.num_channels
    if paths:
        images = [read_image(path, predictor.pixels) for path in paths]
    else:
        scale = max(48 / height, 64 / width, 1)
        scenes = {'height_px': round(height * scale), 'width_px': round(width * scale)}
        rendered = [render_scene(0, 'val', i, **scenes).image for i in range(_NUM_SCENES)]
        images = [_match_channels(image, channels) for image in rendered]
    if not options.is_any_size:
        return [_resize(image, size) for image in images]
    samples = []
    for number, image in enumerate(images):
        shrink = min(height / image.shape[0], width / image.shape[1], 1)
        # Scenes have the largest size; the others shall be tried too.
        shrink *= 1 if paths else 1 - number / (2 * len(images))
        samples.append(_resize(image, (int(image.shape[0] * shrink), int(image.shape[1] * shrink))))
    return samples


def _match_channels(image: np.ndarray, count: int) -> np.ndarray:
    """Repeats the channels of u8[H, W, 3] up to a number."""
    return image[..., np.arange(count) % image.shape[2]]


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    target = (max(size[1], 1), max(size[0], 1))
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0))
    return np.stack([np.asarray(plane.resize(target)) for plane in planes], -1)


def _check(
    predictor: Predictor,
    program: ImageProgram,
    form: Any,
    folder: epath.Path,
    samples: Sequence[np.ndarray],
    options: ExportOptions,
    say: Callable[[str], None],
    load: Callable[..., Predictor],
) -> Agreement:
    """Compares the written files with the predictor; twice if they can compute in bfloat16."""
    groups = [[image] for image in samples] if options.is_any_size else [list(samples)]
    expected = _predict(predictor, groups, options, program.canvas)
    divisor = predictor.spec.label_divisor

    def check(run: Run) -> Agreement:
        with stage(f'comparing {len(samples)} images with the predictor'):
            batch_size = options.batch_size or _SYMBOLIC_BATCH
            found = [row for group in groups for row in run_batches(run, group, batch_size)]
        return compare(expected, found, divisor)

    if options.format == 'openvino' and options.dtype == 'bfloat16':
        agreement = check(form.load(folder, 'f32'))
        say(f'computing in float32: {agreement}')
        check_agreement(agreement, is_exact=False)
        agreement = check(form.load(folder))
        say(f'computing in bfloat16: {agreement}')
        narrow = load(dtype='bfloat16').make_inference(program.canvas)
        own = check(_run_here(dataclasses.replace(program, inference=narrow)))
        say(f'the predictor itself in bfloat16: {own}')
        check_narrow_agreement(agreement, own)
        return agreement
    agreement = check(form.load(folder))
    say(f'{options.format} against the predictor on {len(samples)} images: {agreement}')
    check_agreement(agreement, is_exact=form.IS_EXACT)
    return agreement


def _run_here(program: ImageProgram) -> Run:
    run = jax.jit(program.__call__)
    return lambda images: dict(zip(OUTPUTS, jax.device_get(run(images)), strict=True))


def _predict(
    predictor: Predictor,
    groups: Sequence[Sequence[np.ndarray]],
    options: ExportOptions,
    canvas: tuple[int, int],
) -> list[PanopticResult]:
    """Predicts batches of images; one by one if they may differ in their sizes."""
    # A program for any batch computes image by image in the formats that must be exact.
    batch_size = options.batch_size or 1
    with stage('predicting the images to compare'):
        return [
            result
            for group in groups
            for result in predict_batches(predictor, group, batch_size, canvas)
        ]


def _describe(
    predictor: Predictor, program: ImageProgram, options: ExportOptions, agreement: Agreement
) -> dict[str, Any]:
    height, width = program.size or program.canvas
    return {
        'program': f'pdl_jax {pdl_jax.__version__}',
        **predictor.origin,
        'format': options.format,
        'dtype': options.dtype,
        'batch_size': options.batch_size,
        'height_px': height,
        'width_px': width,
        'is_any_size': options.is_any_size,
        'num_channels': program.num_channels,
        'outputs': list(OUTPUTS),
        'is_semantic': predictor.is_semantic,
        'label_divisor': predictor.spec.label_divisor,
        'void_label': predictor.spec.label_format.void_label,
        'classes': {
            str(number): {'name': c.name, 'is_thing': c.is_thing, 'color': list(c.color)}
            for number, c in predictor.spec.category_of_class.items()
        },
        'agreement': dataclasses.asdict(agreement),
    }
