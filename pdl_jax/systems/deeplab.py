"""The parts that Panoptic-DeepLab and the semantic DeepLabs share: options, network, averaging."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from absl import logging
from jax.typing import ArrayLike

from pdl_jax.losses.class_weights import (
    PixelCounts,
    has_class_weights,
    resolve_class_weights,
)
from pdl_jax.losses.distillation import Lesson
from pdl_jax.losses.panoptic_deeplab import LossOptions, image_losses, panoptic_loss
from pdl_jax.models.options import FIELD_TYPES, ModelOptions, list_fields
from pdl_jax.ops.placement import map_per_device, split_rows
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.ops.segments import lookup
from pdl_jax.postprocess.dense_crf import DenseCrf, refine_images
from pdl_jax.postprocess.panoptic import PostprocessOptions
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.presets import make_network
from pdl_jax.runtime.own_code import find_own_code
from pdl_jax.systems.computation import add_ponder_loss
from pdl_jax.systems.distillation import Distillation, add_distillation
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.network_system import NetworkSystem
from pdl_jax.systems.system import (
    Averaging,
    Outputs,
    ParameterGroup,
    Samples,
    Variables,
    image_size,
)
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class DeepLabOptions(NetworkSystemOptions):
    """The options of a DeepLab, see `NetworkSystemOptions`."""

    # Whether networks of this system have an instance branch.
    has_instances: ClassVar[bool] = True
    network_fields: ClassVar[Mapping[str, type]] = FIELD_TYPES
    list_network = staticmethod(list_fields)
    make_network = staticmethod(make_network)

    model: ModelOptions = ModelOptions()
    targets: TargetOptions = TargetOptions()
    loss: LossOptions = LossOptions()
    postprocess: PostprocessOptions = PostprocessOptions()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.decoder == 'classifier':
            raise ValueError(
                'config.model.preset classifies whole images: choose one that labels pixels'
            )

    def for_data(
        self, class_names: Sequence[str] | None, count_pixels: Callable[[], PixelCounts]
    ) -> Self:
        """See `SystemOptions.for_data`; prints weights that the data decide."""
        given = self.loss.class_weights
        if not given:
            return self
        weights = (1.0,)
        if class_names is not None:
            weights = resolve_class_weights(given, class_names, count_pixels)
        if class_names is not None and not has_class_weights(given):
            words = (f'{name} {w:.3g}' for name, w in zip(class_names, weights, strict=True))
            logging.info('weights of the classes in the semantic loss: %s', ', '.join(words))
        return dataclasses.replace(self, loss=dataclasses.replace(self.loss, class_weights=weights))


@dataclasses.dataclass(frozen=True)
class DeepLabSystem(NetworkSystem):
    """A DeepLab for the classes of a dataset."""

    options: DeepLabOptions

    @property
    def has_instances(self) -> bool:
        """See `System.has_instances`."""
        return self.options.has_instances

    @property
    def averaging(self) -> Averaging:
        """See `System.averaging`."""
        return DeepLabAveraging()

    @property
    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """See `System.parameter_groups`; DeepLab v1 and v2 train their logits faster."""
        if self.options.model.decoder != 'sum_aspp':
            return ()
        return (
            ParameterGroup(r'^semantic_decoder/.*predict/kernel', learning_rate_factor=10),
            ParameterGroup(r'^semantic_decoder/.*predict/bias', learning_rate_factor=20),
        )

    def upsample(
        self, outputs: Outputs, size: tuple[int, int], *, is_partial: bool = False
    ) -> Outputs:
        """See `System.upsample`."""
        if 'offset' in outputs and self.options.model.offset_unit == 'image' and self.scale != 1:
            # The image that they are in pixels of was resized.
            outputs = {**outputs, 'offset': outputs['offset'] / self.scale}
        if is_partial and self.options.postprocess.is_at_original_size:
            # Labelling resizes them once, to the size of the original.
            return outputs
        if is_partial:
            return self.upsample_instances(outputs, size)
        return split_rows(self.network.upsample(outputs, size))

    def upsample_instances(self, outputs: Outputs, size: tuple[int, int]) -> Outputs:
        """Brings centres and offsets, if there are any and they are smaller, to `size`."""
        if 'center' not in outputs or image_size(outputs['center']) == size:
            return outputs
        return {**outputs, **split_rows(self.network.upsample_instances(outputs, size))}

    def refine(self, outputs: Outputs, images: Array, image_size: Array, crf: DenseCrf) -> Outputs:
        """See `refine_outputs`; logarithms of the refined probabilities are logits again."""
        height, width = images.shape[1:3]
        logits = self.network.upsample({'semantic': outputs['semantic']}, (height, width))
        probabilities = jax.nn.softmax(logits['semantic'].astype(jnp.float32))
        refined = map_per_device(functools.partial(refine_images, crf=crf))(
            probabilities, images, image_size
        )
        tiny = jnp.finfo(jnp.float32).tiny
        return {**outputs, 'semantic': split_rows(jnp.log(jnp.maximum(refined, tiny)))}

    def make_targets(self, panoptic: Array) -> dict[str, Array]:
        """Makes the targets of a batch, see `preprocess.targets.make_targets`.

        Raises:
          ValueError: class weights are not filled in, see `SystemOptions.for_data`.
        """
        weights = self.options.loss.class_weights
        if not has_class_weights(weights):
            raise ValueError(f'config.loss.class_weights (={weights!r}) need the data')

        def make(labels: Array) -> dict[str, Array]:
            targets = make_targets(
                labels, label_format=self.label_format, options=self.options.targets
            )
            if weights:
                weight = lookup(jnp.array(weights, jnp.float32), targets['semantic'])
                targets['semantic_weight'] = targets['semantic_weight'] * weight
            return targets

        # Drawing loops once per instance, so devices finish at different times.
        return map_per_device(jax.vmap(make))(panoptic)

    def loss(
        self,
        variables: Variables,
        samples: Samples,
        *,
        rng: Array,
        distillation: Distillation | None = None,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """See `System.loss`; terms by the keys of the outputs, 'auxiliary' and 'ponder' if any.

        A module adds a loss of its own by `self.sow('losses', name, value)`. A function of
        `config.loss.extra` is called with the outputs at the size of the images ('semantic'
        f32[B, H, W, C], 'center' f32[B, H, W, 1], 'offset' f32[B, H, W, 2]), the targets of
        `make_targets` and label_format=LabelFormat; it returns f32[], a mean over the batch, which
        is the term of the function's name.
        """
        targets = split_rows(self.make_targets(samples.panoptic))
        outputs, auxiliary, updates = self.train_outputs(variables, samples.image, rng)
        outputs = self.upsample_instances(outputs, image_size(samples.image))
        loss, terms = panoptic_loss(
            outputs,
            targets,
            ignore_label=self.label_format.ignore_label,
            options=self.options.loss,
            resize=self.options.model.resize,
        )
        if auxiliary is not None:
            terms = {**terms, 'auxiliary': auxiliary}
            loss = loss + auxiliary
        loss, terms = add_ponder_loss(loss, terms, updates, self.options.loss.ponder_weight)
        for name, value in self._extra_losses(outputs, targets).items():
            terms = {**terms, name: value}
            loss = loss + value
        loss, terms = add_distillation(loss, terms, distillation, self, outputs, samples.image)
        return loss, (terms, updates)

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        """See `System.lessons`: 'semantic', and of instances 'center', and 'offset' on things."""
        weights = self.options.loss
        lessons = {'semantic': Lesson('classes', outputs['semantic'], weights.semantic_weight)}
        if 'center' not in outputs:
            return lessons
        outputs = self.upsample_instances(outputs, size)
        share = find_thing_share(outputs['semantic'], self.label_format, size, self.grid.resize)
        return {
            **lessons,
            'center': Lesson('heat', outputs['center'], weights.center_weight),
            'offset': Lesson('offsets', outputs['offset'], weights.offset_weight, share),
        }

    def image_losses(self, outputs: Outputs, panoptic: Array) -> dict[str, Array]:
        """See `System.image_losses`."""
        targets = split_rows(self.make_targets(panoptic))
        outputs = self.upsample_instances(outputs, image_size(panoptic))
        terms = image_losses(
            outputs,
            targets,
            ignore_label=self.label_format.ignore_label,
            options=self.options.loss,
            resize=self.options.model.resize,
        )
        if not self.options.loss.extra:
            return terms

        def compute(outputs: Outputs, targets: dict[str, Array]) -> dict[str, Array]:
            outputs, targets = jax.tree.map(lambda x: x[None], (outputs, targets))
            return self._extra_losses(outputs, targets)

        return {**terms, **jax.vmap(compute)(outputs, targets)}

    def _extra_losses(self, outputs: Outputs, targets: dict[str, Array]) -> dict[str, Array]:
        """Calls the functions of `config.loss.extra`; f32[] by their names."""
        names = self.options.loss.extra
        if not names:
            return {}
        size = image_size(targets['semantic'])
        resize = self.options.model.resize
        full = {key: resize_bilinear(x, size, resize) for key, x in outputs.items()}
        losses = {}
        for name in names:
            function = find_own_code('config.loss.extra', name)
            term = name.partition(':')[2]
            if term in (*outputs, 'auxiliary', 'ponder'):
                raise ValueError(f'config.loss.extra: {name} has the name of another term')
            value = function(dict(full), dict(targets), label_format=self.label_format)
            if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
                raise ValueError(
                    f'config.loss.extra: {name} must return f32[], a mean over the batch, not '
                    f'{jnp.result_type(value)}{list(jnp.shape(value))}'
                )
            losses[term] = value
        return losses


def find_thing_share(
    logits: Array, label_format: LabelFormat, size: tuple[int, int], resize: str
) -> Array:
    """Computes the probability of things, f32[B, H, W] at `size`, from logits f32[B, h, w, C]."""
    is_thing = jnp.array(label_format.thing_table()[: label_format.num_classes], jnp.float32)
    share = jnp.sum(jax.nn.softmax(logits) * is_thing, axis=-1, keepdims=True)
    resized: Array = resize_bilinear(share, size, resize)
    return resized[..., 0]


class DeepLabAveraging(Averaging):
    """Averages class probabilities, heat and offsets.

    Source: DeepLab2's model/deeplab.py; Chen et al., Rethinking Atrous Convolution, 2017, for the
    semantic networks.
    """

    def mirror(self, outputs: Outputs, is_flipped: ArrayLike) -> Outputs:
        """See `Averaging.mirror`; the offsets' dx changes its sign."""
        outputs = jax.tree.map(lambda x: jnp.where(is_flipped, x[:, :, ::-1], x), outputs)
        if 'offset' in outputs:
            sign = jnp.where(is_flipped, jnp.array([1.0, -1.0]), 1.0)
            outputs['offset'] = outputs['offset'] * sign
        return outputs

    def to_mean(self, outputs: Outputs) -> Outputs:
        """See `Averaging.to_mean`."""
        return {**outputs, 'semantic': jax.nn.softmax(outputs['semantic'], axis=-1)}

    def from_mean(self, outputs: Outputs) -> Outputs:
        """See `Averaging.from_mean`; logarithms of the mean probabilities are logits again."""
        tiny = jnp.finfo(jnp.float32).tiny
        return {**outputs, 'semantic': jnp.log(jnp.maximum(outputs['semantic'], tiny))}
