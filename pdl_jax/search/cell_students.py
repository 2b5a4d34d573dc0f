"""Students that are dense prediction cells: trained on features of a frozen encoder.

The proxy task of the paper: the encoder's features are computed once and kept, and every cell is
trained on them for a short time, with a 1x1 convolution to the classes behind it.
"""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pdl_jax.experiment import Experiment
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.dense_prediction_cell import DensePredictionCell, parse_cell
from pdl_jax.models.heads import predict
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.prediction.inference import Inference
from pdl_jax.search.latency import count_multiply_adds, measure_milliseconds
from pdl_jax.search.memory import Images, draw_batches
from pdl_jax.search.student import Measurement
from pdl_jax.systems.system import System, Variables
from pdl_jax.training.optim import make_optimizer
from pdl_jax.typing import Array, LabelFormat, PyTree


class CellNetwork(nn.Module):
    """A cell and the logits of the classes, f32[B, h, w, C], from features float[B, h, w, D]."""

    num_classes: int
    options: ModelOptions
    cell: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        options = self.options
        layers = LayerOptions(self.dtype, options.norm_momentum, options.norm_epsilon)
        x = DensePredictionCell(
            options.semantic.aspp_features,
            options.backbone.output_stride,
            parse_cell(self.cell),
            options.dropout_rate,
            layers,
            name='cell',
        )(x, train=train)
        return predict(x, self.num_classes, layers, name='predict')


class CellStudents:
    """Trains cells on the features of a split, one after the other.

    Args:
      experiment: the network around the cell, and its training.
      system: the experiment's.
      variables: the system's, of which the backbone's are used.
      images: to train on.
      held: to score.
      is_latency_measured: measure milliseconds of a batch instead of counting multiply-adds.

    Raises:
      ValueError: the network has no dense prediction cell, or predicts instances.
    """

    def __init__(
        self,
        experiment: Experiment,
        system: System,
        variables: Variables,
        images: Images,
        held: Images,
        *,
        is_latency_measured: bool = False,
    ) -> None:
        values = experiment.to_dict()['model']
        context = values.get('context')
        if context != 'dense_prediction_cell' or system.has_instances:
            raise ValueError(
                f'config.model.context (={context!r}) must be "dense_prediction_cell", in a '
                f'semantic network, to search its branches'
            )
        # A semantic DeepLab, whose options the system's interface does not know.
        self._options: ModelOptions = cast(Any, experiment.system).model
        self._dtype = experiment.system.compute_dtype
        self._experiment = experiment
        self._label_format = system.label_format
        self._is_latency_measured = is_latency_measured
        self._train = self._find_features(system, variables, images)
        self._held = self._find_features(system, variables, held)

    def evaluate(self, architecture: str) -> Measurement:
        """See `Environment.evaluate`; the same seed draws the variables of all students."""
        experiment = self._experiment
        model = CellNetwork(
            self._label_format.num_classes, self._options, architecture, self._dtype
        )
        order = draw_batches(
            len(self._train[0]),
            experiment.train.batch_size,
            experiment.train.num_steps,
            experiment.seed,
        )
        optimizer = make_optimizer(experiment.optimizer, len(order))
        train = functools.partial(_train, model, optimizer, self._label_format, experiment.seed)
        variables = jax.jit(train)(*self._train, order)
        features, labels = self._held
        accuracy = self._score(model, variables, features, labels)
        height, width, channels = features.shape[1:]
        if self._is_latency_measured:
            batch = jnp.zeros((experiment.evaluate.batch_size, height, width, channels))
            return Measurement(accuracy, measure_milliseconds(model.apply, variables, batch))
        multiply_adds = count_multiply_adds(model, (height, width), channels)
        return Measurement(accuracy, float(multiply_adds))

    def _find_features(
        self, system: System, variables: Variables, images: Images
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes the features float[N, h, w, D], and the label maps i32[N, H, W] beside them."""
        experiment = self._experiment
        height, width = images.image.shape[1:3]
        inference = Inference.for_images(
            system, experiment.augment, experiment.evaluate, (height, width)
        )
        backbone = make_model_backbone(self._options, self._dtype)
        part = {name: values['backbone'] for name, values in variables.items()}

        @jax.jit
        def run(image: Array, panoptic: Array, size: Array) -> tuple[Array, Array]:
            samples = inference.prepare_samples(image, panoptic, size)
            features: Any = backbone.apply(part, samples.image, train=False)
            return features['last'], samples.panoptic

        size = experiment.evaluate.batch_size
        results = []
        for start in range(0, images.count, size):
            # Padded, so that the last batch compiles no program of its own.
            rows = np.arange(start, start + size) % images.count
            results.append(jax.device_get(run(*(x[rows] for x in images))))
        features, labels = (np.concatenate(x)[: images.count] for x in zip(*results, strict=True))
        return features, labels

    def _score(
        self, model: nn.Module, variables: PyTree, features: np.ndarray, labels: np.ndarray
    ) -> float:
        """Computes the mIoU at the size of the images, in [0, 1]."""
        metric = SemanticIoU.for_format(self._label_format)
        resize = self._options.resize

        @jax.jit
        def count(x: Array, panoptic: Array, valid: Array) -> SemanticIoU:
            logits: Any = model.apply(variables, x)
            full: Array = resize_bilinear(logits, (panoptic.shape[1], panoptic.shape[2]), resize)
            classes = jnp.argmax(full, axis=-1).astype(jnp.int32)
            return metric.from_model_output(
                panoptic_label=panoptic, semantic_prediction=classes, valid=valid
            )

        size, total = self._experiment.evaluate.batch_size, metric.empty()
        for start in range(0, len(features), size):
            rows = np.arange(start, start + size)
            taken = rows % len(features)
            total = total.merge(count(features[taken], labels[taken], rows < len(features)))
        return float(total.compute()['miou'] or 0.0)


def _train(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    label_format: LabelFormat,
    seed: int,
    features: Array,
    labels: Array,
    order: Array,
) -> PyTree:
    """Trains a cell from scratch; `order` i32[num_steps, B] are the images of each step."""
    key = jax.random.key(seed)
    variables = model.init(key, features[:1])
    params, stats = variables['params'], variables['batch_stats']
    targets = _stride_labels(labels, (features.shape[1], features.shape[2]))
    semantic = targets // label_format.label_divisor
    valid = (semantic != label_format.ignore_label) & (semantic < label_format.num_classes)

    def compute_loss(params: PyTree, stats: PyTree, rows: Array, rng: Array) -> Any:
        logits, updates = model.apply(
            {'params': params, 'batch_stats': stats},
            features[rows],
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': rng},
        )
        classes = jnp.where(valid[rows], semantic[rows], 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
        count = jnp.maximum(jnp.sum(valid[rows]), 1)
        return jnp.sum(losses * valid[rows]) / count, dict(updates)['batch_stats']

    def step(carry: tuple[PyTree, PyTree, PyTree], item: tuple[Array, Array]) -> Any:
        params, stats, opt_state = carry
        number, rows = item
        rng = jax.random.fold_in(key, number)
        gradients, stats = jax.grad(compute_loss, has_aux=True)(params, stats, rows, rng)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), None

    start = (params, stats, optimizer.init(params))
    (params, stats, _), _ = jax.lax.scan(step, start, (jnp.arange(order.shape[0]), order))
    return {'params': params, 'batch_stats': stats}


def _stride_labels(labels: Array, size: tuple[int, int]) -> Array:
    """Takes the label of the pixel at each feature, with those of the corners at the corners."""
    rows, columns = (
        np.round(np.linspace(0, full - 1, few)).astype(int)
        for full, few in zip(labels.shape[1:3], size, strict=True)
    )
    return labels[:, rows][:, :, columns]
