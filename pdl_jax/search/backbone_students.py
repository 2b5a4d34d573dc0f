"""Students that are backbones: trained from scratch in memory, scored on images held out."""

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.experiment import Experiment
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.inference import Inference
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.search.course import Course
from pdl_jax.search.latency import count_multiply_adds, measure_milliseconds
from pdl_jax.search.memory import Images
from pdl_jax.search.student import Measurement
from pdl_jax.systems.system import System, Variables
from pdl_jax.training.distillation import Teacher
from pdl_jax.typing import Array, LabelFormat

BACKBONE = 'mobile_blocks'


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
        self._course = Course(experiment, label_format, images, teacher)

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
