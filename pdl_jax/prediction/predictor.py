"""A trained system in one call: an image of any size in, its label map and segments out."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.images import MAX_PIXELS, show_channels
from pdl_jax.data.pixel_format import PixelFormat, parse_value_range
from pdl_jax.experiment import Experiment
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.formats import encode_segments, encode_semantic
from pdl_jax.prediction.inference import Inference, abstract_variables, find_input_size
from pdl_jax.prediction.object_limit import warn_of_full_image
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import batch_sharding, make_mesh, replicated
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.storage.variables import restore_variables
from pdl_jax.systems.drawing.overlay import overlay_panoptic
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array, Device

# If all images are resized to one network input, canvases are multiples of this, so that different
# image sizes share a compiled program.
_CANVAS_STEP_PX = 128
# Somewhat more than the largest image that is decoded, for the padding of its canvas. A long strip,
# whose canvas is mostly padding, must not fill the memory.
_MAX_CANVAS_PIXELS = MAX_PIXELS * 17 // 16


@dataclasses.dataclass(frozen=True)
class Segment:
    """One stuff region or one object; for a semantic network, all pixels of one class.

    Attributes:
      label: value in the panoptic map.
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
    """The label map and the segments of one image.

    Attributes:
      panoptic: i32[H, W], semantic * label_divisor + instance at the size of the image.
      segments: all segments but void, ascending by label.
      spec: the classes and the meaning of labels.
      is_semantic: true if the network predicts classes only; then no label has an instance.
    """

    panoptic: np.ndarray
    segments: tuple[Segment, ...]
    spec: DatasetSpec
    is_semantic: bool = False

    def draw_overlay(self, image: np.ndarray) -> np.ndarray:
        """Draws coloured segments, outlines and class names on u8[H, W, C].

        Of other than three channels the first ones are shown, see `images.show_channels`.
        """
        label_format = self.spec.label_format
        if self.is_semantic:
            # Things without an instance would be drawn as crowds.
            label_format = dataclasses.replace(label_format, thing_classes=())
        return overlay_panoptic(
            show_channels(image),
            self.panoptic,
            label_format,
            class_names=self.spec.class_names,
            colors=self.spec.make_palette(),
            scores={segment.label: segment.score for segment in self.segments},
        )

    def to_png(self) -> bytes:
        """Encodes a PNG in which segment i has the id i + 1 as R + 256 G + 65536 B, and void is 0.

        For a semantic network it holds class indices, see `formats.encode_semantic`.
        """
        if self.is_semantic:
            return encode_semantic(self.panoptic // self.spec.label_divisor, self.spec)
        return encode_segments(self.panoptic, [{'label': s.label} for s in self.segments])

    def to_json(self) -> list[dict[str, Any]]:
        """Lists the segments as JSON values; 'id' is that of a panoptic `to_png`."""
        return [{'id': i, **dataclasses.asdict(s)} for i, s in enumerate(self.segments, 1)]


class Predictor:
    """A system with its variables; call it with images.

    predictor = Predictor.load('runs/coco')
    result = predictor(image)

    Args:
      experiment: the experiment of the run that made the variables.
      spec: the classes and the meaning of labels.
      variables: the system's variables, replicated on the mesh.
      checkpoint: the checkpoint that they come from, for `origin`.
      mesh: the devices, which share the images of a batch.
      pixels: how image files become the pixels that the network was trained on; None: three
        channels of 8 bits.

    Attributes:
      spec: the classes and the meaning of labels.
      pixels: for `images.decode_image`, which makes the images of a predictor from files.
      is_semantic: true if the system predicts classes only.
      origin: everything that results depend on, as JSON values: the 'checkpoint', the 'scales' of
        the image, and whether the mirror image is averaged too ('is_flipped').
      num_devices: devices that share the images of a batch.
    """

    def __init__(
        self,
        experiment: Experiment,
        spec: DatasetSpec,
        variables: Variables,
        *,
        checkpoint: str,
        mesh: jax.sharding.Mesh,
        pixels: PixelFormat | None = None,
    ) -> None:
        self.spec = spec
        self.pixels = pixels or PixelFormat(experiment.data.num_channels)
        self._system = experiment.make_system(spec.label_format)
        self.is_semantic = not self._system.has_instances
        evaluate = experiment.evaluate
        self.origin = {
            'checkpoint': checkpoint,
            'scales': list(map(float, evaluate.scales)),
            'is_flipped': evaluate.is_flipped,
        }
        if self.pixels.value_range is not None:
            self.origin['value_range'] = self.pixels.to_dict()['value_range']
        self.num_devices = mesh.size
        self._augment = experiment.augment
        # An oracle needs the ground truth, which prediction does not have.
        self._evaluate = dataclasses.replace(evaluate, oracle=())
        self._variables = variables
        self._mesh = mesh

    @classmethod
    def load(
        cls,
        path: str,
        *,
        step: int | str | None = None,
        scales: Sequence[float] | None = None,
        is_flipped: bool | None = None,
        value_range: str = 'dataset',
        devices: Sequence[Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] - jax gives no type.
    ) -> 'Predictor':
        """Loads a checkpoint.

        Args:
          path: a workdir or one step of it; local or gs://.
          step: which step of a workdir, or 'best'; by default the newest.
          scales: scales of the image whose outputs are averaged; by default the run's.
          is_flipped: whether the mirror image is averaged too; by default as in the run.
          value_range: values of image files with more than 8 bits that become 0 and 255: those of
            the run's 'dataset', percentiles of each 'image', or 'LOW,HIGH'.
          devices: devices of this process that share a batch; by default the first one.

        Raises:
          FileNotFoundError: no checkpoint is there.
          ValueError: the checkpoint is damaged.
        """
        checkpoint = find_checkpoint(path, step)
        description = read_description(checkpoint)
        try:
            experiment = Experiment.from_dict(description['config'])
            spec = DatasetSpec.from_dict(description['dataset'])
            pixels = _find_pixels(description, experiment, value_range, str(checkpoint))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f'{checkpoint}/description lacks or misstates a field that this version needs: '
                f'{error}'
            ) from error
        changes: dict[str, Any] = {}
        if scales is not None:
            changes['scales'] = tuple(float(scale) for scale in scales)
        if is_flipped is not None:
            changes['is_flipped'] = is_flipped
        evaluate = dataclasses.replace(experiment.evaluate, **changes)
        experiment = dataclasses.replace(experiment, evaluate=evaluate)
        mesh = make_mesh(devices=jax.local_devices()[:1] if devices is None else devices)
        system = experiment.make_system(spec.label_format)
        variables = restore_variables(checkpoint, abstract_variables(system), replicated(mesh))
        return cls(
            experiment, spec, variables, checkpoint=str(checkpoint), mesh=mesh, pixels=pixels
        )

    def __call__(self, image: np.ndarray) -> PanopticResult:
        """Predicts one image.

        Args:
          image: u8[H, W, 3], RGB, of any size; of a network for another number of channels
            u8[H, W, C].

        Raises:
          ValueError: the image has another dtype or shape.
        """
        return self.start([image])()[0]

    def canvas_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in pixels that an image of `size` is padded to.

        Images that share it can share a batch.

        Raises:
          ValueError: the system cannot take an image as large as this.
        """
        if self._augment.resize_max_px:
            height, width = (ceil_div(n, _CANVAS_STEP_PX) * _CANVAS_STEP_PX for n in size)
            canvas = (height, width)
        else:
            # The canvas size fixes the network input; rounding it up would add padding that
            # evaluation does not have.
            canvas = find_input_size(self._system, self._augment, size)
        if math.prod(canvas) > _MAX_CANVAS_PIXELS:
            raise ValueError(
                f'an image of {size[0]}x{size[1]} pixels needs a canvas of {canvas[0]}x{canvas[1]}'
                f', and the limit is {_MAX_CANVAS_PIXELS} pixels: cut it into parts'
            )
        limit = None if self._augment.resize_max_px else self._system.max_pixels
        if limit is not None and math.prod(canvas) > limit:
            raise ValueError(
                f'an image of {size[0]}x{size[1]} pixels is too large for a network input of at '
                f'most {limit} pixels: shrink or tile it'
            )
        return canvas

    def start(
        self, images: Sequence[np.ndarray], *, batch_size: int = 1
    ) -> Callable[[], list[PanopticResult]]:
        """Starts to predict a batch and returns while the devices compute.

        With one image per device the results equal those of each image alone bit for bit; with more
        XLA may round scores differently in the last digit.

        Args:
          images: u8[H, W, C] each, RGB of three channels, at least one; all must have the same
            canvas.
          batch_size: size that the batch is padded to, so that smaller ones share its program, and
            from there to a multiple of the devices.

        Returns:
          A function that waits for the results and returns them in the order of the images.

        Raises:
          ValueError: an image has another dtype or shape, is too large, or has another canvas than
            the first.
        """
        images = [np.asarray(image) for image in images]
        channels = self.pixels.num_channels
        for image in images:
            is_image = image.dtype == np.uint8 and image.ndim == 3 and image.size
            if not is_image or image.shape[2] != channels:
                order = ' in RGB order' if channels == 3 else ''
                raise ValueError(
                    f'an image must be uint8[H, W, {channels}]{order}, not '
                    f'{image.dtype}{list(image.shape)}'
                )
        sizes = [image.shape[:2] for image in images]
        canvases = sorted({self.canvas_size(size) for size in sizes})
        if len(canvases) != 1:
            raise ValueError(
                f'the images of a batch must share one canvas, not {canvases}: see '
                f'Predictor.canvas_size'
            )
        num_rows = ceil_div(max(len(images), batch_size), self.num_devices) * self.num_devices
        batch = np.zeros((num_rows, *canvases[0], channels), np.uint8)
        # Rows without an image are one black pixel.
        batch_sizes = np.ones((num_rows, 2), np.int32)
        for row, (height, width) in enumerate(sizes):
            batch[row, :height, :width] = images[row]
            batch_sizes[row] = height, width
        sharding = batch_sharding(self._mesh)
        with jax.set_mesh(self._mesh):
            outputs = self._compile(canvases[0], num_rows)(
                self._variables,
                jax.device_put(batch, sharding),
                jax.device_put(batch_sizes, sharding),
            )

        def finish() -> list[PanopticResult]:
            panoptic, table = jax.device_get(outputs)
            results = []
            for row, (height, width) in enumerate(sizes):
                segments = self._list_segments({key: column[row] for key, column in table.items()})
                results.append(
                    PanopticResult(
                        panoptic[row, :height, :width], segments, self.spec, self.is_semantic
                    )
                )
            return results

        return finish

    @functools.lru_cache(maxsize=128)  # noqa: B019 - a predictor lives as long as its programs.
    def _compile(self, canvas_size: tuple[int, int], num_rows: int) -> jax.stages.Compiled:
        inference = Inference.for_images(self._system, self._augment, self._evaluate, canvas_size)

        def predict(
            variables: Variables, image: Array, size: Array
        ) -> tuple[Array, dict[str, Array]]:
            maps = inference.label_maps(variables, image, size)
            return maps.panoptic, self._system.describe_segments(maps)

        sharding = batch_sharding(self._mesh)
        shape = (num_rows, *canvas_size, self.pixels.num_channels)
        image = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding)
        size = jax.ShapeDtypeStruct((num_rows, 2), np.int32, sharding=sharding)
        program = jax.jit(predict, out_shardings=sharding)
        with stage(f'compiling for images of up to {canvas_size[0]}x{canvas_size[1]} pixels'):
            return program.lower(self._variables, image, size).compile()

    def _list_segments(self, table: Mapping[str, np.ndarray]) -> tuple[Segment, ...]:
        segments = []
        for i in np.flatnonzero(table['valid']):
            label = int(table['label'][i])
            class_id = label // self.spec.label_divisor
            category = self.spec.category_of_class[class_id]
            y0, x0, y1, x1 = (int(n) for n in table['box'][i])
            segments.append(
                Segment(
                    label=label,
                    class_id=class_id,
                    class_name=category.name,
                    category_id=category.id,
                    is_thing=category.is_thing and not self.is_semantic,
                    score=float(np.clip(table['score'][i], 0.0, 1.0)),
                    area_px=int(table['area'][i]),
                    box=(y0, x0, y1, x1),
                )
            )
        warn_of_full_image(self._system, sum(segment.is_thing for segment in segments))
        return tuple(segments)


def _find_pixels(
    description: Mapping[str, Any], experiment: Experiment, value_range: str, source: str
) -> PixelFormat:
    """Returns the pixel format of a checkpoint, with another value range if one is asked for."""
    pixels = PixelFormat.from_dict(
        {'num_channels': experiment.data.num_channels, **description.get('pixels', {})},
        source=f'{source}/description',
    )
    chosen = parse_value_range(value_range)
    if chosen == 'dataset':
        return pixels
    return PixelFormat(pixels.num_channels, None if isinstance(chosen, str) else chosen)
