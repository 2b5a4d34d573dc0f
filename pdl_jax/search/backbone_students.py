"""Students that are backbones: trained from scratch in memory, scored on images held out."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.experiment import Experiment
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.inference import Inference
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.search.latency import count_multiply_adds, measure_milliseconds
from pdl_jax.search.memory import Images, draw_batches
from pdl_jax.search.student import Measurement
from pdl_jax.systems.system import Outputs, Samples, System, Variables
from pdl_jax.training.distillation import Teacher
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.program import make_step_options
from pdl_jax.training.step import init_state, make_training_samples, make_update
from pdl_jax.typing import Array, LabelFormat

BACKBONE = 'mobile_blocks'
# Crops and outputs of the teacher are kept for the next student if all of them take less.
_MAX_KEPT_BYTES = 2**31
# LLVM takes longer to optimise a program that runs once than the program.
_SINGLE_USE = {'xla_backend_optimization_level': '0'}


class BackboneStudents:
    """Trains architectures as the backbone of an experiment's network, one after the other.

    Only what depends on the student is compiled for it: its variables, its update and its score.
    Crops and the teacher's outputs are programs of their own and the same for all students, since
    one seed draws everything. docs/search.md compares this with one network with masks for all.

    Args:
      experiment: the network around the backbone, and its training.
      label_format: of the images.
      images: to train on.
      held: to score.
      teacher: what students learn from beside the labels, if anything.
      is_latency_measured: measure milliseconds of a batch instead of counting multiply-adds.

    Raises:
      ValueError: the network has another backbone.
    """

    def __init__(
        self,
        experiment: Experiment,
        label_format: LabelFormat,
        images: Images,
        held: Images,
        *,
        teacher: Teacher | None = None,
        is_latency_measured: bool = False,
    ) -> None:
        name = experiment.to_dict()['model'].get('backbone')
        if name != BACKBONE:
            raise ValueError(
                f'config.model.backbone (={name!r}) must be {BACKBONE!r}, whose blocks are searched'
            )
        self._experiment = experiment
        self._label_format = label_format
        self._held = held
        self._is_latency_measured = is_latency_measured
        self._course = _Course(experiment, label_format, images, teacher)

    def evaluate(self, architecture: str) -> Measurement:
        """See `Environment.evaluate`."""
        experiment = set_model_field(self._experiment, 'architecture', architecture)
        system = experiment.make_system(self._label_format)
        # One device: a student is small, and its batches too.
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            variables = self._course.train(system)
            accuracy = score(experiment, system, variables, self._held)
            latency = self._find_latency(experiment, system, variables)
        return Measurement(accuracy, latency)

    def _find_latency(self, experiment: Experiment, system: System, variables: Variables) -> float:
        size = _find_inference(experiment, system, self._held).input_size
        num_channels = experiment.data.num_channels
        if self._is_latency_measured:
            images = jnp.zeros((experiment.evaluate.batch_size, *size, num_channels))
            return measure_milliseconds(system.outputs, variables, images)
        network = system.network
        assert network is not None  # A network with a backbone.
        return float(count_multiply_adds(network, size, num_channels))


def set_model_field(experiment: Experiment, field: str, value: str) -> Experiment:
    """Sets a field of the section `model`."""
    values = experiment.to_dict()
    values['model'][field] = value
    return Experiment.from_dict(values)


def score(experiment: Experiment, system: System, variables: Variables, images: Images) -> float:
    """Computes the share of images, or the mIoU of a network that labels pixels, in [0, 1]."""
    inference = _find_inference(experiment, system, images)
    metric = SemanticIoU.for_format(system.label_format)
    batch_size = min(experiment.evaluate.batch_size, images.count)
    num_batches = ceil_div(images.count, batch_size)
    batches = np.arange(num_batches * batch_size).reshape(num_batches, batch_size)

    @jax.jit
    def count(variables: Variables, images: Images, rows: Array) -> SemanticIoU:
        image, panoptic, size = (x[rows % images.count] for x in images)
        maps = inference.label_maps(variables, image, size)
        return metric.from_model_output(
            panoptic_label=panoptic,
            semantic_prediction=maps.semantic,
            valid=rows < images.count,
        )

    on_device = jax.device_put(images)
    total = metric.empty()
    for rows in batches:
        total = total.merge(count(variables, on_device, rows))
    values = total.compute()
    # Images of one class and one size are right or wrong as a whole.
    return float(values['pixel_accuracy' if system.labels_images else 'miou'] or 0.0)


def _find_inference(experiment: Experiment, system: System, images: Images) -> Inference:
    height, width = images.image.shape[1:3]
    return Inference.for_images(system, experiment.augment, experiment.evaluate, (height, width))


class _Course:
    """The lessons that all students take: the same crops, and a teacher's outputs for them."""

    def __init__(
        self,
        experiment: Experiment,
        label_format: LabelFormat,
        images: Images,
        teacher: Teacher | None,
    ) -> None:
        self._experiment = experiment
        self._options = make_step_options(experiment)
        self._images = images
        self._teacher = teacher
        train = experiment.train
        self._order = draw_batches(images.count, train.batch_size, train.num_steps, experiment.seed)
        self._sample = jax.jit(
            functools.partial(
                make_training_samples, label_format=label_format, options=self._options
            )
        )
        self._ask = None if teacher is None else jax.jit(_ask(teacher.system))
        self._kept: list[tuple[Any, ...]] = []

    def train(self, system: System) -> Variables:
        """Trains a student from scratch; returns the variables to score."""
        options, num_steps = self._experiment.optimizer, len(self._order)
        optimizer = make_optimizer(
            options, num_steps, system.parameter_groups, system.backbone_regex
        )
        recorded = None if self._teacher is None else _Recorded(self._teacher.system)
        update = make_update(
            system,
            optimizer,
            make_schedule(options, num_steps),
            self._options,
            cast(System, recorded),
        )
        init = jax.jit(
            functools.partial(init_state, system, optimizer, self._options),
            compiler_options=_SINGLE_USE if jax.default_backend() == 'cpu' else None,
        )
        state = init()
        update = jax.jit(update, donate_argnums=0)
        for step in range(num_steps):
            state, _ = update(state, *self._find_lesson(step))
        return state.eval_variables

    def _find_lesson(self, step: int) -> tuple[Any, ...]:
        """Returns the samples of a step and, with a teacher, its outputs for them."""
        if step < len(self._kept):
            return self._kept[step]
        batch = jax.tree.map(lambda x: x[self._order[step]], self._images._asdict())
        samples: Samples = self._sample(batch, jnp.int32(step))
        lesson: tuple[Any, ...] = (samples,)
        if self._ask is not None and self._teacher is not None:
            lesson = samples, self._ask(self._teacher.variables, samples.image)
        num_bytes = sum(x.nbytes for x in jax.tree.leaves(lesson))
        if num_bytes * len(self._order) <= _MAX_KEPT_BYTES and step == len(self._kept):
            self._kept.append(lesson)
        return lesson


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A teacher whose outputs are given in the place of its variables."""

    system: System

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def outputs(self, variables: Outputs, images: Array) -> Outputs:
        return variables


def _ask(teacher: System) -> Any:
    def ask(variables: Variables, images: Array) -> Outputs:
        size = teacher.grid.fit((images.shape[1], images.shape[2]))
        return teacher.outputs(variables, resize_bilinear(images, size, teacher.grid.resize))

    return ask
