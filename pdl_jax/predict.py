"""Prediction on images of any size, from Python and from the command line.

    python -m pdl_jax.predict --checkpoint=runs/coco --images='photos/*.jpg' --output=predictions

writes for each photo NAME_panoptic.png (ids as in the COCO panoptic format; of a semantic network NAME_semantic.png, class
indices), NAME.json (the segments) and NAME_overlay.png (a picture for people).
"""

import argparse
import dataclasses
import functools
import glob
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath

from pdl_jax.checkpoint import find_checkpoint, read_description, restore_variables
from pdl_jax.config import (
    config_from_json,
    has_instances,
    input_size,
    make_model,
    make_passes,
    make_step_options,
    postprocess_arguments,
    validate_config,
)
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.images import decode_image, encode_image
from pdl_jax.data.predictions import encode_segments, encode_semantic
from pdl_jax.inference import abstract_variables, make_inference_step
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.visualize import overlay_panoptic

# Where every image is resized to one network input, canvases are multiples of this, so that sizes share programs.
_CANVAS_STEP_PX = 128


@dataclasses.dataclass(frozen=True)
class Segment:
    """One stuff region or one object; of a semantic network all pixels of one class.

    Attributes:
      label: its value in the panoptic map.
      class_id: semantic class of the network.
      class_name: name of the class.
      category_id: id of the class in the annotation file that the network was trained with.
      is_thing: whether it is a single object.
      score: confidence in [0, 1].
      area_px: number of pixels.
      box: (y0, x0, y1, x1) in pixels, ends exclusive.
    """

    label: int
    class_id: int
    class_name: str
    category_id: int
    is_thing: bool
    score: float
    area_px: int
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class PanopticResult:
    """What is where in one image.

    Attributes:
      panoptic: i32[H, W], semantic * label_divisor + instance at the size of the image.
      segments: all segments but void, ascending by label.
      spec: what the labels mean.
      is_semantic: whether the network tells classes apart only; then no label has an instance.
    """

    panoptic: np.ndarray
    segments: tuple[Segment, ...]
    spec: DatasetSpec
    is_semantic: bool = False

    def draw_overlay(self, image: np.ndarray) -> np.ndarray:
        """The image u8[H, W, 3] with coloured segments, outlines and class names."""
        label_format = self.spec.label_format
        if self.is_semantic:
            # Things without an instance would be drawn as crowds.
            label_format = dataclasses.replace(label_format, thing_classes=())
        return overlay_panoptic(
            image,
            self.panoptic,
            label_format,
            class_names=self.spec.class_names,
            colors=self.spec.make_palette(),
            scores={segment.label: segment.score for segment in self.segments},
        )

    def to_png(self) -> bytes:
        """A PNG in which the i-th segment has the id i + 1 as R + 256 G + 65536 B, and void is 0.

        Of a semantic network one of class indices, see `data.predictions.encode_semantic`.
        """
        if self.is_semantic:
            return encode_semantic(self.panoptic // self.spec.label_divisor, self.spec)
        return encode_segments(self.panoptic, [{'label': s.label} for s in self.segments])

    def to_json(self) -> list[dict[str, Any]]:
        """The segments as JSON values; 'id' is that of a panoptic `to_png`."""
        return [{'id': i, **dataclasses.asdict(s)} for i, s in enumerate(self.segments, 1)]


class Predictor:
    """A network with its post-processing; call it with images.

    predictor = Predictor.load('runs/coco')
    result = predictor(image)
    """

    def __init__(self, variables, config, spec: DatasetSpec):
        self.spec = spec
        self._config = config
        self._variables = variables
        self._is_semantic = not has_instances(config)
        self._augment = make_step_options(config, spec.label_format).augment

    @classmethod
    def load(
        cls,
        path: str,
        *,
        step: int | str | None = None,
        scales: Sequence[float] | None = None,
        is_flipped: bool | None = None,
    ) -> 'Predictor':
        """Loads a checkpoint.

        Args:
          path: a workdir or one step of it; local or gs://.
          step: which step of a workdir, or 'best'; by default the newest.
          scales: of the image, whose outputs are averaged; by default those of the run's evaluation.
          is_flipped: whether the mirror image is averaged too; by default as in the run's evaluation.

        Raises:
          FileNotFoundError: no checkpoint is there.
          ValueError: the checkpoint is damaged.
        """
        checkpoint = find_checkpoint(path, step)
        description = read_description(checkpoint)
        try:
            config = config_from_json(description['config'])
            if scales is not None:
                config.evaluate.scales = tuple(float(scale) for scale in scales)
            if is_flipped is not None:
                config.evaluate.is_flipped = is_flipped
            validate_config(config)
            spec = DatasetSpec.from_dict(description['dataset'])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f'{checkpoint}/description lacks or misstates a field that this version needs: {error}'
            ) from error
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        model = make_model(config, spec.num_classes)
        variables = restore_variables(checkpoint, abstract_variables(model), device)
        return cls(variables, config, spec)

    def __call__(self, image: np.ndarray) -> PanopticResult:
        """Predicts one image.

        Args:
          image: u8[H, W, 3], RGB, of any size.

        Raises:
          ValueError: the image has another dtype or shape.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f'an image must be uint8[H, W, 3] in RGB order, not {image.dtype}{list(image.shape)}'
            )
        size = image.shape[:2]
        if self._augment.resize_max_px:
            canvas_size = tuple(math.ceil(n / _CANVAS_STEP_PX) * _CANVAS_STEP_PX for n in size)
        else:
            # The canvas decides the input, and padding that evaluation does not have would change the predictions.
            canvas_size = input_size(self._config, size)
        canvas = np.zeros((1, *canvas_size, 3), np.uint8)
        canvas[0, : size[0], : size[1]] = image
        panoptic, table = jax.device_get(
            self._compile(canvas_size)(self._variables, canvas, np.array([size], np.int32))
        )
        segments = self._list_segments(table)
        return PanopticResult(panoptic[: size[0], : size[1]], segments, self.spec, self._is_semantic)

    @functools.lru_cache(maxsize=32)  # noqa: B019 - a predictor lives as long as its programs.
    def _compile(self, canvas_size):
        input_px = input_size(self._config, canvas_size)
        infer = make_inference_step(
            make_passes(self._config, self.spec.num_classes, input_px),
            label_format=self.spec.label_format,
            augment=self._augment,
            postprocess=postprocess_arguments(self._config),
            input_size=input_px,
        )

        def predict(variables, image, size):
            maps = jax.tree.map(lambda x: x[0], infer(variables, image, size))
            table = segment_table(
                maps['panoptic'],
                maps['class_probability'],
                maps['center_score'],
                label_format=self.spec.label_format,
                # Every instance comes from a centre and every stuff class is one segment, so none is left out.
                max_segments=self._config.postprocess.max_centers + self.spec.num_classes,
            )
            return maps['panoptic'], table

        return jax.jit(predict)

    def _list_segments(self, table) -> tuple[Segment, ...]:
        segments = []
        for i in np.flatnonzero(table['valid']):
            label = int(table['label'][i])
            class_id = label // self.spec.label_divisor
            category = self.spec.category_of_class[class_id]
            segments.append(
                Segment(
                    label=label,
                    class_id=class_id,
                    class_name=category.name,
                    category_id=category.id,
                    is_thing=category.is_thing and not self._is_semantic,
                    score=float(np.clip(table['score'][i], 0.0, 1.0)),
                    area_px=int(table['area'][i]),
                    box=tuple(int(n) for n in table['box'][i]),
                )
            )
        return tuple(segments)


def find_images(patterns: Iterable[str]) -> list[str]:
    """Expands glob patterns to image files, sorted, each once.

    Raises:
      FileNotFoundError: a pattern matches nothing.
      ValueError: two images would write the same output files.
    """
    found = set()
    for pattern in patterns:
        if '://' in pattern:
            folder, name = pattern.rsplit('/', 1)
            matches = [str(path) for path in epath.Path(folder).glob(name)]
        else:
            matches = glob.glob(pattern, recursive=True)
        if not matches:
            raise FileNotFoundError(f'--images={pattern}: no such file; quote the pattern so that the shell passes it on')
        found.update(matches)
    stems = {}
    for path in sorted(found):
        stem = _stem(path)
        if stem in stems:
            raise ValueError(
                f'{stems[stem]} and {path} would both be written as {stem}.json: rename one or predict them apart'
            )
        stems[stem] = path
    return sorted(found)


def predict_file(predictor: Predictor, path: str, output: epath.Path) -> PanopticResult:
    """Predicts one image file and writes its three results.

    The picture is turned upright first where its EXIF data say so, as viewers do.

    Raises:
      ValueError: the file is no image, is truncated or too large; the message names it.
    """
    image = decode_image(epath.Path(path).read_bytes(), name=path, is_exif_applied=True)
    result = predictor(image)
    stem = _stem(path)
    height, width = image.shape[:2]
    description = {'file_name': os.path.basename(path), 'height': height, 'width': width}
    kind = 'semantic' if result.is_semantic else 'panoptic'
    (output / f'{stem}_{kind}.png').write_bytes(result.to_png())
    (output / f'{stem}_overlay.png').write_bytes(encode_image(result.draw_overlay(image)))
    # Last, so that the JSON's presence means that the image is done.
    (output / f'{stem}.json').write_text(
        json.dumps({**description, 'segments': result.to_json()}, indent=1)
    )
    return result


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `python -m pdl_jax.predict --help` lists the flags."""
    parser = argparse.ArgumentParser(
        prog='python -m pdl_jax.predict',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--checkpoint', required=True, help='a workdir or one step of it, local or gs://')
    parser.add_argument('--images', required=True, nargs='+', help='files or quoted glob patterns')
    parser.add_argument('--output', required=True, help='directory of the results, local or gs://')
    parser.add_argument(
        '--step',
        type=lambda value: value if value == 'best' else int(value),
        help='of a workdir, or best for the one with the highest PQ, or mIoU (default: the newest)',
    )
    parser.add_argument('--scales', type=float, nargs='+', help='average over the image at these scales')
    parser.add_argument(
        '--flip', action=argparse.BooleanOptionalAction, help='average over the mirror image too'
    )
    flags = parser.parse_args(arguments)
    try:
        paths = find_images(flags.images)
        predictor = Predictor.load(
            flags.checkpoint, step=flags.step, scales=flags.scales, is_flipped=flags.flip
        )
        output = epath.Path(flags.output)
        output.mkdir(parents=True, exist_ok=True)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f'error: {error}\n')
    failures = []
    for path in tqdm.tqdm(paths, unit='image', disable=not sys.stderr.isatty()):
        # One image that cannot be read does not stop the others.
        try:
            result = predict_file(predictor, path, output)
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            failures.append(f'{path}: {error}')
            continue
        if result.is_semantic:
            tqdm.tqdm.write(f'{path}: {", ".join(s.class_name for s in result.segments)}')
            continue
        things = ', '.join(f'{s.class_name} {s.score:.2f}' for s in result.segments if s.is_thing)
        tqdm.tqdm.write(f'{path}: {len(result.segments)} segments; {things or "no things"}')
    print(f'{len(paths) - len(failures)} of {len(paths)} images predicted to {output}')
    if failures:
        parser.exit(1, 'error: not predicted:\n' + '\n'.join(failures) + '\n')


if __name__ == '__main__':
    main()
