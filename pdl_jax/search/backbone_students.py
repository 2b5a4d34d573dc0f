"""Students that are backbones: trained from scratch in memory, scored on images held out."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.experiment import Experiment
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.inference import Inference
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.search.latency import count_multiply_adds, measure_milliseconds
from pdl_jax.search.memory import Images, draw_batches
from pdl_jax.search.student import Measurement
from pdl_jax.systems.system import System, Variables
from pdl_jax.training.optim import make_optimizer, make_schedule
from pdl_jax.training.program import make_step_options
from pdl_jax.training.step import init_state, make_train_step
from pdl_jax.typing import Array, LabelFormat

BACKBONE = 'mobile_blocks'


@dataclasses.dataclass(frozen=True)
class BackboneStudents:
    """Trains architectures as the backbone of an experiment's network, one after the other.

    A student is compiled for itself: a whole training, with the images on the device, is one
    program. The alternative, one network with masks for all students, would compile once and then
    pay for its widest layers and for all of them in every step of every student, and BatchNorm and
    squeeze-and-excite would have to know of the masks. docs/search.md has the times.

    Attributes:
      experiment: the network around the backbone, and its training.
      label_format: of the images.
      images: to train on.
      held: to score.
      is_latency_measured: measure milliseconds of a batch instead of counting multiply-adds.
    """

    experiment: Experiment
    label_format: LabelFormat
    images: Images
    held: Images
    is_latency_measured: bool = False

    def __post_init__(self) -> None:
        name = self.experiment.to_dict()['model'].get('backbone')
        if name != BACKBONE:
            raise ValueError(
                f'config.model.backbone (={name!r}) must be {BACKBONE!r} to search its blocks'
            )

    def evaluate(self, architecture: str) -> Measurement:
        """See `Environment.evaluate`; the same seed draws the variables of all students."""
        experiment = set_model_field(self.experiment, 'architecture', architecture)
        system = experiment.make_system(self.label_format)
        mesh = make_mesh(devices=jax.devices()[:1])
        num_steps = experiment.train.num_steps
        order = draw_batches(
            self.images.count, experiment.train.batch_size, num_steps, experiment.seed
        )
        with jax.set_mesh(mesh):
            train = jax.jit(functools.partial(_train, experiment, system))
            variables = train(self.images, order)
            accuracy = score(experiment, system, variables, self.held)
            latency = self._find_latency(experiment, system, variables)
        return Measurement(accuracy, latency)

    def _find_latency(
        self, experiment: Experiment, system: System, variables: Variables
    ) -> float:
        size = _find_inference(experiment, system, self.held).input_size
        num_channels = experiment.data.num_channels
        if self.is_latency_measured:
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


def _train(experiment: Experiment, system: System, images: Images, order: Array) -> Variables:
    """Trains from scratch; `order` i32[num_steps, B] are the images of each step."""
    options, num_steps = make_step_options(experiment), order.shape[0]
    optimizer = make_optimizer(
        experiment.optimizer, num_steps, system.parameter_groups, system.backbone_regex
    )
    schedule = make_schedule(experiment.optimizer, num_steps)
    step = make_train_step(system, optimizer, schedule, options)

    def take(state: Any, rows: Array) -> tuple[Any, None]:
        batch = jax.tree.map(lambda x: x[rows], images._asdict())
        return step(state, batch)[0], None

    images = jax.tree.map(jnp.asarray, images)
    state, _ = jax.lax.scan(take, init_state(system, optimizer, options), order)
    return state.eval_variables


def score(
    experiment: Experiment, system: System, variables: Variables, images: Images
) -> float:
    """Computes the share of images, or the mIoU of a network that labels pixels, in [0, 1]."""
    inference = _find_inference(experiment, system, images)
    metric = SemanticIoU.for_format(system.label_format)
    batch_size = min(experiment.evaluate.batch_size, images.count)
    num_batches = ceil_div(images.count, batch_size)
    rows = np.arange(num_batches * batch_size).reshape(num_batches, batch_size)

    def count(variables: Variables, images: Images, rows: Array) -> Array:
        image, panoptic, size = (x[rows % images.count] for x in images)
        maps = inference.label_maps(variables, image, size)
        return metric.from_model_output(
            panoptic_label=panoptic,
            semantic_prediction=maps.semantic,
            valid=rows < images.count,
        ).confusion

    @jax.jit
    def run(variables: Variables, images: Images, rows: Array) -> Array:
        return jax.lax.map(lambda one: count(variables, images, one), rows)

    confusion = np.asarray(run(variables, images, rows), np.int64).sum(axis=0)
    values = metric(confusion=confusion).compute()
    return float(values['pixel_accuracy' if _labels_images(system) else 'miou'] or 0.0)


def _labels_images(system: System) -> bool:
    return getattr(system, 'labels_images', False)


def _find_inference(experiment: Experiment, system: System, images: Images) -> Inference:
    height, width = images.image.shape[1:3]
    return Inference.for_images(
        system, experiment.augment, experiment.evaluate, (height, width)
    )
