"""Classification: one class for the whole image, the task that backbones are pretrained on."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from pdl_jax.losses.classification import ClassLossOptions, class_losses
from pdl_jax.losses.distillation import Lesson
from pdl_jax.models.options import BACKBONE_FIELDS, FIELD_TYPES, ModelOptions, list_fields
from pdl_jax.ops.placement import split_rows
from pdl_jax.postprocess.panoptic import mark_images
from pdl_jax.preprocess.class_targets import (
    ClassTargetOptions,
    make_class_targets,
    mix_images,
)
from pdl_jax.presets import make_network
from pdl_jax.systems.computation import add_ponder_loss
from pdl_jax.systems.deeplab import DeepLabAveraging
from pdl_jax.systems.distillation import Distillation, add_distillation
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.network_system import NetworkSystem
from pdl_jax.systems.pixel_grid import PixelGrid
from pdl_jax.systems.system import Averaging, LabelMaps, Outputs, Samples, Variables
from pdl_jax.typing import Array, LabelFormat, check_share

# Fields of `config.model`: the backbone's, and those of the layers behind it.
_FIELDS = (
    *BACKBONE_FIELDS,
    'normalization',
    'pixel_mean',
    'pixel_deviation',
    'norm_momentum',
    'norm_epsilon',
    'dropout_rate',
)


@dataclasses.dataclass(frozen=True)
class ClassPostprocessOptions:
    """Rules of the way back to labels.

    Attributes:
      min_score: images whose class has a lower probability become void.
    """

    min_score: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.min_score, float):
            check_share('postprocess', self, 'min_score')


@dataclasses.dataclass(frozen=True)
class ClassificationOptions(NetworkSystemOptions):
    """The options of a classifier, see `NetworkSystemOptions`."""

    name: ClassVar[str] = 'classification'
    has_instances: ClassVar[bool] = False
    labels_images: ClassVar[bool] = True
    network_fields: ClassVar[Mapping[str, type]] = {key: FIELD_TYPES[key] for key in _FIELDS}
    make_network = staticmethod(make_network)
    base_config: ClassVar[str] = 'classification'
    inference_fields: ClassVar[tuple[str, ...]] = ('min_score',)

    model: ModelOptions = ModelOptions()
    targets: ClassTargetOptions = ClassTargetOptions()
    loss: ClassLossOptions = ClassLossOptions()
    postprocess: ClassPostprocessOptions = ClassPostprocessOptions()

    @staticmethod
    def list_network(options: ModelOptions) -> dict[str, object]:
        """Lists the flat fields of a network."""
        fields = list_fields(options)
        return {key: fields[key] for key in _FIELDS}

    def make_system(self, label_format: LabelFormat) -> 'ClassificationSystem':
        """See `SystemOptions.make_system`."""
        return ClassificationSystem(label_format, self)


@dataclasses.dataclass(frozen=True)
class ClassificationSystem(NetworkSystem):
    """Gives all pixels of an image the class of the image.

    The only output is 'semantic' f32[B, 1, 1, C], logits.
    """

    options: ClassificationOptions

    @property
    def has_instances(self) -> bool:
        """See `System.has_instances`."""
        return False

    @property
    def labels_images(self) -> bool:
        """See `System.labels_images`."""
        return True

    @property
    def grid(self) -> PixelGrid:
        """See `System.grid`; the global average takes maps of any size."""
        return PixelGrid()

    @property
    def averaging(self) -> Averaging:
        """See `System.averaging`."""
        return DeepLabAveraging()

    def outputs(self, variables: Variables, images: Array) -> Outputs:
        """See `System.outputs`."""
        return _to_outputs(self.network.apply(variables, images, train=False))

    def train_outputs(
        self, variables: Variables, images: Array, rng: Array
    ) -> tuple[Outputs, Array | None, Variables]:
        """See `NetworkSystem.train_outputs`."""
        logits, auxiliary, updates = super().train_outputs(variables, images, rng)
        return _to_outputs(logits), auxiliary, updates

    def loss(
        self,
        variables: Variables,
        samples: Samples,
        *,
        rng: Array,
        distillation: Distillation | None = None,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """See `System.loss`; the terms are 'semantic', and 'auxiliary' and 'ponder' if any."""
        dropout_rng, mixup_rng = jax.random.split(rng)
        images, targets = samples.image, self._make_targets(samples.panoptic)
        alpha = self.options.targets.mixup_alpha
        if alpha:
            images, targets = mix_images(mixup_rng, images, targets, alpha=alpha)
            images = split_rows(images)
        outputs, auxiliary, updates = self.train_outputs(variables, images, dropout_rng)
        # Images of void alone do not count.
        count = jnp.maximum(jnp.sum(targets), 1)
        terms = {'semantic': jnp.sum(class_losses(_find_logits(outputs), targets)) / count}
        loss = terms['semantic']
        if auxiliary is not None:
            terms['auxiliary'] = auxiliary
            loss = loss + auxiliary
        loss, terms = add_ponder_loss(loss, terms, updates, self.options.loss.ponder_weight)
        loss, terms = add_distillation(loss, terms, distillation, self, outputs, images)
        return loss, (terms, updates)

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        """See `System.lessons`: 'semantic'."""
        del size
        return {'semantic': Lesson('classes', outputs['semantic'])}

    def image_losses(self, outputs: Outputs, panoptic: Array) -> dict[str, Array]:
        """See `System.image_losses`."""
        targets = self._make_targets(panoptic)
        return {'semantic': class_losses(_find_logits(outputs), targets)}

    def image_scores(self, outputs: Outputs) -> Array:
        """See `System.image_scores`; a void class has none."""
        logits = _find_logits(outputs)
        ignored = jnp.arange(logits.shape[-1]) == self.label_format.ignore_label
        return jax.nn.softmax(jnp.where(ignored, -jnp.inf, logits))

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """See `System.label_maps`."""
        scores = self.image_scores(outputs)
        shape = (scores.shape[0], *size)
        semantic = jnp.argmax(scores, axis=-1).astype(jnp.int32)[:, None, None]
        semantic = jnp.broadcast_to(semantic, shape)
        probability = jnp.broadcast_to(jnp.max(scores, axis=-1)[:, None, None], shape)
        panoptic = semantic * self.label_format.label_divisor
        return LabelMaps(panoptic, semantic, probability, jnp.ones_like(probability))

    def label_original_maps(
        self,
        outputs: Outputs,
        *,
        size: tuple[int, int],
        image_size: Array,
        original_size: Array,
        canvas: tuple[int, int],
    ) -> LabelMaps:
        """See `System.label_original_maps`; the input may be a part of the image."""
        del size, image_size
        maps = self.label_maps(outputs, size=canvas)
        is_inside = mark_images(original_size, canvas)
        fills = (self.label_format.void_label, self.label_format.ignore_label, 0.0, 0.0)
        return LabelMaps(
            *(jnp.where(is_inside, x, fill) for x, fill in zip(maps, fills, strict=True))
        )

    def filter_segments(self, maps: LabelMaps) -> LabelMaps:
        """See `System.filter_segments`."""
        min_score = self.options.postprocess.min_score
        if isinstance(min_score, float) and not min_score:
            return maps
        is_void = maps.class_probability < min_score
        return maps._replace(
            panoptic=jnp.where(is_void, self.label_format.void_label, maps.panoptic)
        )

    def _make_targets(self, panoptic: Array) -> Array:
        return make_class_targets(
            panoptic, label_format=self.label_format, options=self.options.targets
        )


def _to_outputs(logits: Any) -> Outputs:
    return {'semantic': logits[:, None, None]}


def _find_logits(outputs: Outputs) -> Array:
    return outputs['semantic'][:, 0, 0]
