"""A trained system in one call: an image of any size in, its label map and segments out."""

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import jax
import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.experiment import Experiment
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.prediction.canvas import find_canvas_size, stack_images
from pdl_jax.prediction.context import has_context, measure_context
from pdl_jax.prediction.ensemble import Member, load_members
from pdl_jax.prediction.image_inputs import ImageInput, read_input
from pdl_jax.prediction.inference import Inference, abstract_variables
from pdl_jax.prediction.object_limit import warn_of_full_image
from pdl_jax.prediction.output_maps import OutputMaps, make_output_maps
from pdl_jax.prediction.programs import Programs
from pdl_jax.prediction.result import PanopticResult
from pdl_jax.prediction.segment_rows import list_segments
from pdl_jax.prediction.tiles import Tile
from pdl_jax.prediction.trained import find_pixels, read_trained
from pdl_jax.prediction.tuned import use_tuned
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import batch_sharding, make_mesh, replicated
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.variables import restore_variables
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Device, PyTree

if TYPE_CHECKING:
    from pdl_jax.prediction.tiled import TiledResult


class Predictor:
    """A system with its variables; call it with images.

    predictor = Predictor.load('runs/coco', min_score=0.3)
    result = predictor('photo.jpg')
    result.save('predictions')

    Args:
      experiment: the experiment of the run that made the variables.
      spec: the classes and the meaning of labels.
      variables: the system's variables, replicated on the mesh.
      checkpoint: the checkpoint that they come from, for `origin`; those of an ensemble.
      mesh: the devices, which share the images of a batch.
      pixels: how image files become the pixels that the network was trained on; None: three
        channels of 8 bits.

    Attributes:
      spec: the classes and the meaning of labels.
      pixels: for `images.decode_image`, which makes the images of a predictor from files.
      is_semantic: true if the system predicts classes only.
      is_adaptive: true if the network spends more on some pixels than on others.
      origin: everything that results depend on, as JSON values: the 'checkpoint', the 'scales' of
        the image, whether the mirror image is averaged too ('is_flipped'), the parameters of the
        'crf', if there is one, and the options of 'postprocess', such as thresholds.
      num_devices: devices that share the images of a batch.
      variables: the system's variables.
      crop_size: (height, width) in pixels that the system was trained at.
    """

    def __init__(
        self,
        experiment: Experiment,
        spec: DatasetSpec,
        variables: Variables,
        *,
        checkpoint: str | list[str],
        mesh: jax.sharding.Mesh,
        pixels: PixelFormat | None = None,
        members: tuple[Member, ...] = (),
    ) -> None:
        self.spec = spec
        self.pixels = pixels or PixelFormat(experiment.data.num_channels)
        self._system = experiment.make_system(spec.label_format)
        self.is_semantic = not self._system.has_instances
        self.is_adaptive = self._system.is_adaptive and not members
        evaluate = experiment.evaluate
        crf = evaluate.crf.resolve()
        self.origin = {
            'checkpoint': checkpoint,
            'scales': list(map(float, evaluate.scales)),
            'is_flipped': evaluate.is_flipped,
            'crf': None if crf is None else dataclasses.asdict(crf),
            'postprocess': experiment.system.inference_values,
        }
        if self.pixels.value_range is not None:
            self.origin['value_range'] = self.pixels.to_dict()['value_range']
        self.num_devices = mesh.size
        self.crop_size = experiment.augment.crop_size
        self._experiment = experiment
        self._augment = experiment.augment
        # An oracle needs the ground truth, which prediction does not have.
        self._evaluate = dataclasses.replace(evaluate, oracle=())
        self.variables = variables
        self._mesh = mesh
        self._programs = Programs(
            self._system, self._augment, self._evaluate, mesh, self.pixels.num_channels, members
        )
        # With other options, see `with_postprocess`.
        self._variants: dict[Any, Predictor] = {}
        # The one for the canvas of the last picture of outputs.
        self._output_maps: dict[tuple[int, int], OutputMaps] = {}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        step: int | str | None = None,
        scales: Sequence[float] | None = None,
        is_flipped: bool | None = None,
        crf: str | None = None,
        value_range: str = 'dataset',
        is_tuned: bool = True,
        allow_code: bool = False,
        dtype: str | None = None,
        devices: Sequence[Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] - jax gives no type.
        **postprocess: float,
    ) -> 'Predictor':
        """Loads a checkpoint.

        Args:
          path: a workdir or one step of it; local or gs://. Several make an ensemble: the rules of
            the first, such as thresholds, make labels of the mean outputs, see `ensemble`.
          step: which step of a workdir, or 'best' or 'last'; by default the newest.
          scales: scales of the image whose outputs are averaged; by default the run's.
          is_flipped: whether the mirror image is averaged too; by default as in the run.
          crf: a name of `dense_crf.SETTINGS`, '' for none; by default the run's.
          value_range: values of image files with more than 8 bits that become 0 and 255: those of
            the run's 'dataset', percentiles of each 'image', or 'LOW,HIGH'.
          is_tuned: whether to use the options that `pdl_jax evaluate --tune` found.
          allow_code: import the module of a backbone of the user's own that the checkpoint names,
            from the working directory. A checkpoint from elsewhere can name any module.
          dtype: type of activations, see `SystemOptions`; by default the run's.
          devices: devices of this process that share a batch; by default the first one.
          **postprocess: options in the place of the run's and the tuned ones. Panoptic-DeepLab has
            center_threshold, nms_kernel_px, max_centers, min_score, min_area_px and
            stuff_area_limit_px, see `postprocess.panoptic.PostprocessOptions`.

        Raises:
          FileNotFoundError: no checkpoint is there.
          ValueError: the checkpoint is damaged or names code that was not imported, or its system
            has no such option.
        """
        paths = [path] if isinstance(path, str | os.PathLike) else path
        checkpoints = [find_checkpoint(one, step) for one in paths]
        checkpoint = checkpoints[0]
        read = functools.partial(read_trained, code_sections=('model',) if allow_code else ())
        trained = read(checkpoint)
        experiment, spec = trained.experiment, trained.spec
        pixels = find_pixels(trained, value_range, str(checkpoint))
        if is_tuned:
            experiment = use_tuned(experiment, checkpoint)
        experiment = _with_dtype(experiment.with_inference(postprocess), dtype)
        changes: dict[str, Any] = {}
        if scales is not None:
            changes['scales'] = tuple(float(scale) for scale in scales)
        if is_flipped is not None:
            changes['is_flipped'] = is_flipped
        if crf is not None:
            changes['crf'] = CrfOptions(crf)
        evaluate = dataclasses.replace(experiment.evaluate, **changes)
        experiment = dataclasses.replace(experiment, evaluate=evaluate)
        mesh = make_mesh(devices=jax.local_devices()[:1] if devices is None else devices)
        sharding, members = replicated(mesh), ()
        with stage('reading the checkpoint'):
            if len(checkpoints) > 1:
                change = functools.partial(_with_dtype, dtype=dtype)
                members, variables = load_members(trained, checkpoints, read, change, sharding)
            else:
                abstract = abstract_variables(experiment.make_system(spec.label_format))
                variables = restore_variables(checkpoint, abstract, sharding)
        names = [str(one) for one in checkpoints]
        return cls(
            experiment,
            spec,
            variables,
            checkpoint=names if members else names[0],
            mesh=mesh,
            pixels=pixels,
            members=members,
        )

    @overload
    def __call__(
        self, image: list[ImageInput] | tuple[ImageInput, ...], *, keep_outputs: bool = False
    ) -> list[PanopticResult]: ...

    @overload
    def __call__(self, image: ImageInput, *, keep_outputs: bool = False) -> PanopticResult: ...

    def __call__(
        self,
        image: ImageInput | list[ImageInput] | tuple[ImageInput, ...],
        *,
        keep_outputs: bool = False,
    ) -> PanopticResult | list[PanopticResult]:
        """Predicts one image, or each of a list.

        Args:
          image: a path, local or gs://; a PIL image; or uint8 values of any size: [H, W, 3] in RGB
            order, [H, W], [H, W, C], see `read_input`; or a list of any of these.
          keep_outputs: whether results keep the network's centres, offsets and ponder cost, to draw
            them; the network runs once more for that.

        Returns:
          A result, or a list of them.

        Raises:
          OSError: a file cannot be read.
          ValueError: an array has another dtype or shape, a file is no image, or the network has no
            outputs to keep.
        """
        if isinstance(image, list | tuple):
            return [self(one, keep_outputs=keep_outputs) for one in image]
        name = os.path.basename(image) if isinstance(image, str | os.PathLike) else ''
        values = read_input(image, self.pixels)
        result = self.start([values])()[0]
        outputs = self._compute_outputs(values) if keep_outputs else None
        return dataclasses.replace(result, name=name, outputs=outputs)

    def predict_tiles(
        self, image: ImageInput, output: str, *, tile_px: int = 1024, overlap_px: int = 256
    ) -> 'TiledResult':
        """Predicts an image of any size in tiles, into a folder; see `tiled.predict_tiles`."""
        from pdl_jax.prediction.tiled import TileOptions, predict_tiles

        return predict_tiles(self, image, output, TileOptions(tile_px, overlap_px))

    def with_postprocess(self, **postprocess: float) -> 'Predictor':
        """Returns a predictor with the same variables and other options, see `load`."""
        key = tuple(sorted(postprocess.items()))
        if key in self._variants:
            return self._variants[key]
        self._variants[key] = Predictor(
            self._experiment.with_inference(postprocess),
            self.spec,
            self.variables,
            checkpoint=self.origin['checkpoint'],
            mesh=self._mesh,
            pixels=self.pixels,
            members=self._programs.members,
        )
        return self._variants[key]

    def measure_context(
        self, tiles: Iterable[tuple[Tile, np.ndarray]], tile_size: tuple[int, int]
    ) -> PyTree:
        """Measures what the whole image tells each of its tiles, for `start`.

        Args:
          tiles: each with u8[h, w, C], its window; not walked through if the answer is None.
          tile_size: (height, width) in pixels of the largest window.

        Returns:
          None where the network has no such context.
        """
        if not has_context(self._programs, self.variables):
            return None
        canvas = self.canvas_size(tile_size)
        return measure_context(self._programs, self.variables, tiles, canvas)

    @property
    def stride_px(self) -> int:
        """Step in pixels by which an image can be shifted under the network's strided layers.

        It is 1 if images are resized first.
        """
        return 1 if self._augment.resize_max_px else self._system.grid.stride

    def canvas_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in pixels that an image of `size` is padded to.

        Images that share it can share a batch.

        Raises:
          ValueError: the system cannot take an image as large as this.
        """
        return find_canvas_size(self._system, self._augment, size)

    def make_inference(self, canvas: tuple[int, int]) -> Inference:
        """Makes the functions from images of at most `canvas` (height, width) to label maps."""
        return self._programs.make_inference(canvas)

    def with_variables(self, variables: Variables) -> 'Predictor':
        """Returns a predictor that differs in its variables only; they share compiled programs."""
        other = copy.copy(self)
        other.variables = jax.device_put(variables, replicated(self._mesh))
        other._variants = {}
        return other

    def start(
        self,
        images: Sequence[np.ndarray],
        *,
        batch_size: int = 1,
        canvas: tuple[int, int] | None = None,
        context: PyTree = None,
    ) -> Callable[[], list[PanopticResult]]:
        """Starts to predict a batch and returns while the devices compute.

        With one image per device the results equal those of each image alone bit for bit; with more
        XLA may round scores differently in the last digit.

        Args:
          images: u8[H, W, C] each, RGB of three channels, at least one; all must have the same
            canvas.
          batch_size: size that the batch is padded to, so that smaller ones share its program, and
            from there to a multiple of the devices.
          canvas: (height, width) in pixels to pad to instead of `canvas_size`.
          context: context of the whole image that these are tiles of, see `measure_context`.

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
        canvases = [canvas] if canvas else sorted({self.canvas_size(size) for size in sizes})
        if len(canvases) != 1:
            raise ValueError(
                f'the images of a batch must share one canvas, not {canvases}: see '
                f'Predictor.canvas_size'
            )
        num_rows = ceil_div(max(len(images), batch_size), self.num_devices) * self.num_devices
        batch, batch_sizes = stack_images(images, canvases[0], num_rows)
        sharding = batch_sharding(self._mesh)
        variables = self.variables
        if context is not None:
            variables = {**variables, 'context': context}
        with jax.set_mesh(self._mesh):
            outputs = self._programs.find(variables, canvases[0], num_rows)(
                variables,
                jax.device_put(batch, sharding),
                jax.device_put(batch_sizes, sharding),
            )

        def finish() -> list[PanopticResult]:
            panoptic, table = jax.device_get(outputs)
            results = []
            for row, (height, width) in enumerate(sizes):
                rows = {key: column[row] for key, column in table.items()}
                segments = list_segments(rows, self.spec, is_semantic=self.is_semantic)
                warn_of_full_image(self._system, sum(segment.is_thing for segment in segments))
                results.append(
                    PanopticResult(
                        panoptic[row, :height, :width],
                        segments,
                        self.spec,
                        self.is_semantic,
                        image=images[row],
                        postprocess=self.origin['postprocess'],
                    )
                )
            return results

        return finish

    def _compute_outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        canvas = self.canvas_size(image.shape[:2])
        if canvas not in self._output_maps:
            self._output_maps = {canvas: make_output_maps(self.make_inference(canvas))}
        padded = np.zeros((1, *canvas, image.shape[2]), np.uint8)
        padded[0, : image.shape[0], : image.shape[1]] = image
        size = np.array([image.shape[:2]], np.int32)
        with jax.set_mesh(self._mesh):
            inputs = jax.device_put((padded, size), replicated(self._mesh))
            return self._output_maps[canvas](self.variables, *inputs)


def _with_dtype(experiment: Experiment, dtype: str | None) -> Experiment:
    if dtype is None:
        return experiment
    return dataclasses.replace(
        experiment, system=dataclasses.replace(experiment.system, dtype=dtype)
    )
