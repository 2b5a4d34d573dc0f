"""The programs of an experiment, ready to be compiled for devices that need not exist."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from pdl_jax.data import catalog
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.evaluation.evaluator import Evaluator
from pdl_jax.experiment import Experiment
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.planning.program import Program
from pdl_jax.prediction.inference import run_passes
from pdl_jax.runtime.sharding import batch_sharding
from pdl_jax.systems.system import LabelMaps, Outputs
from pdl_jax.training.distillation import find_teacher, list_arguments
from pdl_jax.training.program import make_step_program
from pdl_jax.training.state import TrainState
from pdl_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class SplitOutline:
    """The properties of a split that shapes depend on; stands for data that are not there.

    Attributes:
      spec: the classes.
      max_size: (height, width) in pixels of the largest image.
      pixels: the number of channels.
      max_segments: most segments of an image.
    """

    spec: catalog.DatasetSpec
    max_size: tuple[int, int]
    pixels: PixelFormat
    max_segments: int = 0


Source = RecordSource | SplitOutline


def find_split(
    experiment: Experiment, split: str, image_size: tuple[int, int] | None = None
) -> Source:
    """Opens a split, or outlines it if it has not been prepared.

    Args:
      experiment: the run. Without data its number of classes counts, and the size of images is its
        canvas, else that of the dataset with as many classes, else its crop.
      split: its name.
      image_size: (height, width) in pixels that holds every image of an outlined split.

    Raises:
      ValueError: there is neither data nor a number of classes.
    """
    data = experiment.data
    try:
        return open_split(data.path, split)
    except FileNotFoundError:
        pass
    if not data.num_classes:
        raise ValueError(
            f'there is no data at config.data.path (={data.path!r}): set config.data.num_classes '
            f'to plan without'
        )
    spec, largest = _find_dataset(data.num_classes)
    size = image_size or data.canvas_size(largest or experiment.augment.crop_size)
    return SplitOutline(spec, size, PixelFormat(data.num_channels))


def make_programs(
    experiment: Experiment, mesh: jax.sharding.Mesh, train_source: Source, eval_source: Source
) -> dict[str, Program]:
    """Makes the train step, the eval step and, by itself, the post-processing of the latter.

    Raises:
      ValueError: a field of the configuration does not fit the mesh.
    """
    # No weight of a class changes what a step costs, and counting pixels would take time.
    experiment = experiment.for_data(None, tuple)
    train, state = _make_train(experiment, mesh, train_source)
    system = experiment.make_system(eval_source.spec.label_format)
    evaluator = Evaluator(experiment, system, eval_source, mesh)  # pyright: ignore[reportArgumentType] - an outline has what shapes need.
    evaluation = _make_eval(evaluator, mesh, eval_source, state)
    return {
        'train': train,
        'eval': evaluation,
        'postprocess': _make_postprocess(evaluator, mesh, evaluation),
    }


def _make_train(
    experiment: Experiment, mesh: jax.sharding.Mesh, source: Source
) -> tuple[Program, TrainState]:
    system = experiment.make_system(source.spec.label_format)
    teacher = find_teacher(experiment, source.spec, mesh, is_loaded=False)
    taught_by = None if teacher is None else teacher.system
    program = make_step_program(experiment, system, mesh, taught_by)
    batch_size = experiment.train.batch_size
    canvas = experiment.data.canvas_size(source.max_size)
    batch = _outline_batch(batch_size, canvas, source.pixels.num_channels)
    batch = _place(batch, batch_sharding(mesh))
    arguments = program.abstract_state, batch, *list_arguments(teacher)
    return (
        Program('train', program.step, arguments, batch_size, program.crop_size),
        program.abstract_state,
    )


def _make_eval(
    evaluator: Evaluator, mesh: jax.sharding.Mesh, source: Source, state: TrainState
) -> Program:
    batch_size = evaluator.batch_size
    batch = _outline_batch(batch_size, source.max_size, source.pixels.num_channels)
    batch['valid'] = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
    batch['record'] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    variables = state.eval_variables
    return Program(
        'eval',
        evaluator.step,
        (variables, _place(batch, batch_sharding(mesh))),
        batch_size,
        evaluator.inference.input_size,
        # A run evaluates between two steps: the rest of its state stays in memory.
        _count_device_bytes(state) - _count_device_bytes(variables),
    )


def _make_postprocess(
    evaluator: Evaluator, mesh: jax.sharding.Mesh, evaluation: Program
) -> Program:
    inference = evaluator.inference
    num_channels = evaluation.arguments[1]['image'].shape[3]
    shape = (evaluation.num_images, *evaluation.size, num_channels)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    run = functools.partial(run_passes, inference.passes, is_partial=inference.is_partial)
    outputs = eval_shape(run, evaluation.arguments[0], images)

    def process(outputs: Outputs) -> LabelMaps:
        # Maps at full size lie split over the devices, as the network leaves them.
        outputs = {
            key: split_rows(x) if x.shape[1:3] == evaluation.size else x
            for key, x in outputs.items()
        }
        return inference.system.label_maps(outputs, size=evaluation.size)

    return Program(
        'postprocess',
        jax.jit(process, out_shardings=batch_sharding(mesh)),
        (_place(outputs, batch_sharding(mesh)),),
        evaluation.num_images,
        evaluation.size,
    )


def _outline_batch(batch_size: int, canvas: tuple[int, int], num_channels: int) -> dict[str, Any]:
    """Outlines the arrays of `data.pipeline` that every step takes."""
    return {
        'image': jax.ShapeDtypeStruct((batch_size, *canvas, num_channels), jnp.uint8),
        'panoptic': jax.ShapeDtypeStruct((batch_size, *canvas), jnp.int32),
        'size': jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
    }


def _place(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _count_device_bytes(tree: PyTree) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _find_dataset(num_classes: int) -> tuple[catalog.DatasetSpec, tuple[int, int] | None]:
    """Finds a dataset with as many classes, and the size of its largest image if it is known."""
    for spec, size in ((catalog.coco(), (640, 640)), (catalog.cityscapes(), (1024, 2048))):
        if spec.num_classes == num_classes:
            return spec, size
    # The choice of thing classes changes constants of the program, and hardly its costs.
    categories = [{'id': i, 'name': f'class {i}', 'isthing': i % 2} for i in range(num_classes)]
    return catalog.from_categories('outline', categories), None
