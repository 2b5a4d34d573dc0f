"""DeeperLab: semantic classes, and instances from keypoints and offsets between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pdl_jax.losses.distillation import Lesson
from pdl_jax.losses.keypoint_maps import KeypointLossOptions, keypoint_map_losses
from pdl_jax.models.deeperlab import OFFSETS
from pdl_jax.models.deeperlab_options import (
    DEEPERLAB_FIELDS,
    DeeperLabNetworkOptions,
)
from pdl_jax.ops.keypoints import CENTER, MIRRORED_EDGES, MIRRORED_KEYPOINTS
from pdl_jax.ops.placement import map_per_device, split_rows
from pdl_jax.postprocess.centers import MAX_PIXELS
from pdl_jax.postprocess.keypoint_instances import (
    KeypointPostprocessOptions,
    label_keypoint_outputs,
)
from pdl_jax.preprocess.keypoint_targets import KeypointTargetOptions, make_keypoint_targets
from pdl_jax.presets import make_deeperlab_network
from pdl_jax.systems.computation import add_ponder_loss
from pdl_jax.systems.deeplab import DeepLabAveraging, find_thing_share
from pdl_jax.systems.distillation import Distillation, add_distillation
from pdl_jax.systems.drawing.fields import draw_offset, heatmap_picture
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.network_system import NetworkSystem
from pdl_jax.systems.rejection import reject_things
from pdl_jax.systems.semantic_deeplab import replace_semantic
from pdl_jax.systems.system import LabelMaps, Outputs, Samples, Variables, image_size
from pdl_jax.typing import Array, LabelFormat

# The logit of a heat of practically 1.
_CERTAIN = 30.0
_MIRRORED = {
    'keypoint': MIRRORED_KEYPOINTS,
    'short': MIRRORED_KEYPOINTS,
    'middle': MIRRORED_EDGES,
    'long': MIRRORED_KEYPOINTS,
}


@dataclasses.dataclass(frozen=True)
class DeeperLabOptions(NetworkSystemOptions):
    """The options of DeeperLab, see `NetworkSystemOptions`."""

    name: ClassVar[str] = 'deeperlab'
    oracles: ClassVar[tuple[str, ...]] = ('semantic', 'keypoint', *OFFSETS)
    network_fields: ClassVar[Mapping[str, type]] = DEEPERLAB_FIELDS.types
    list_network = staticmethod(DEEPERLAB_FIELDS.list)
    make_network = staticmethod(make_deeperlab_network)
    base_config: ClassVar[str] = 'deeperlab'
    inference_fields: ClassVar[tuple[str, ...]] = (
        'keypoint_threshold',
        'min_score',
        'min_area_px',
        'stuff_area_limit_px',
    )

    model: DeeperLabNetworkOptions = DeeperLabNetworkOptions()
    targets: KeypointTargetOptions = KeypointTargetOptions()
    loss: KeypointLossOptions = KeypointLossOptions()
    postprocess: KeypointPostprocessOptions = KeypointPostprocessOptions()

    @property
    def max_instances(self) -> int | None:
        """See `SystemOptions.max_instances`."""
        return self.targets.max_instances

    @property
    def tuning_choices(self) -> dict[str, tuple[Any, ...]]:
        """See `SystemOptions.tuning_choices`."""
        areas = (0, *(2**i for i in range(2, 14)))
        return {
            'keypoint_threshold': (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
            'min_score': tuple(i / 20 for i in range(19)),
            'min_area_px': areas,
            'stuff_area_limit_px': areas,
        }

    def make_system(self, label_format: LabelFormat) -> 'DeeperLabSystem':
        """See `SystemOptions.make_system`."""
        return DeeperLabSystem(label_format, self)


@dataclasses.dataclass(frozen=True)
class DeeperLabSystem(NetworkSystem):
    """Labels every pixel with a class and an instance.

    Source: Yang et al., DeeperLab, arXiv 1902.05093.
    """

    options: DeeperLabOptions
    max_segments_field: ClassVar[str] = 'postprocess.max_instances'

    @property
    def max_segments(self) -> int:
        """See `System.max_segments`: one per instance and one per stuff class."""
        return self.options.postprocess.max_instances + self.label_format.num_classes

    @property
    def max_pixels(self) -> int | None:
        """See `System.max_pixels`."""
        return MAX_PIXELS

    @property
    def averaging(self) -> 'DeeperLabAveraging':
        """See `System.averaging`."""
        return DeeperLabAveraging()

    def upsample(
        self, outputs: Outputs, size: tuple[int, int], *, is_partial: bool = False
    ) -> Outputs:
        """See `System.upsample`."""
        if is_partial:
            return {**outputs, **split_rows(self.network.upsample_instances(outputs, size))}
        return split_rows(self.network.upsample(outputs, size))

    def make_targets(self, panoptic: Array) -> dict[str, Array]:
        """Makes the targets of a batch, see `preprocess.keypoint_targets`."""

        def make(labels: Array) -> dict[str, Array]:
            return make_keypoint_targets(
                labels, label_format=self.label_format, options=self.options.targets
            )

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
        """See `System.loss`; terms by the keys of the outputs, 'auxiliary' and 'ponder' if any."""
        outputs, auxiliary, updates = self.train_outputs(variables, samples.image, rng)
        outputs = self.upsample(outputs, image_size(samples.image), is_partial=True)
        terms = jax.tree.map(jnp.mean, self.image_losses(outputs, samples.panoptic))
        if auxiliary is not None:
            terms['auxiliary'] = auxiliary
        loss, terms = add_ponder_loss(
            cast(Array, sum(terms.values())), terms, updates, self.options.loss.ponder_weight
        )
        loss, terms = add_distillation(loss, terms, distillation, self, outputs, samples.image)
        return loss, (terms, updates)

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        """See `System.lessons`: 'semantic', 'keypoint', and the offsets on things."""
        weights = self.options.loss
        if image_size(outputs['keypoint']) != size:
            outputs = self.upsample(outputs, size, is_partial=True)
        share = find_thing_share(outputs['semantic'], self.label_format, size, self.grid.resize)
        return {
            'semantic': Lesson('classes', outputs['semantic'], weights.semantic_weight),
            'keypoint': Lesson('chances', outputs['keypoint'], weights.keypoint_weight),
            **{
                name: Lesson('offsets', outputs[name], getattr(weights, f'{name}_weight'), share)
                for name in OFFSETS
            },
        }

    def image_losses(self, outputs: Outputs, panoptic: Array) -> dict[str, Array]:
        """See `System.image_losses`."""
        return keypoint_map_losses(
            outputs,
            split_rows(self.make_targets(panoptic)),
            ignore_label=self.label_format.ignore_label,
            options=self.options.loss,
            resize=self.options.model.resize,
        )

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """See `System.label_maps`."""
        if outputs['keypoint'].shape[1:3] != size:
            outputs = self.upsample(outputs, size, is_partial=True)
        maps = label_keypoint_outputs(
            outputs,
            label_format=self.label_format,
            options=self.options.postprocess,
            size=size,
            resize=self.grid.resize,
        )
        return LabelMaps(*(maps[name] for name in LabelMaps._fields))

    def filter_segments(self, maps: LabelMaps) -> LabelMaps:
        """See `System.filter_segments`."""
        options = self.options.postprocess
        return reject_things(self, maps, options.min_score, options.min_area_px)

    def replace_by_truth(self, outputs: Outputs, panoptic: Array, oracle: Sequence[str]) -> Outputs:
        """See `System.replace_by_truth`."""
        truth = self.make_targets(panoptic)
        outputs = replace_semantic(outputs, panoptic, oracle, self.label_format)
        if 'keypoint' in oracle:
            logits = jnp.where(truth['keypoint'] > 0, _CERTAIN, -_CERTAIN)
            outputs = {**outputs, 'keypoint': logits}
        for name in OFFSETS:
            if name in oracle:
                outputs = {**outputs, name: truth[name].reshape(outputs[name].shape)}
        return outputs

    def picture_maps(self, variables: Variables, samples: Samples) -> dict[str, Array]:
        """See `System.picture_maps`."""
        size = image_size(samples.image)
        targets = self.make_targets(samples.panoptic)
        outputs = self.upsample(self.outputs(variables, samples.image), size, is_partial=True)
        center = slice(2 * CENTER, 2 * CENTER + 2)
        return {
            'panoptic': self.label_maps(outputs, size=size).panoptic,
            'target_panoptic': samples.panoptic,
            'keypoint': jax.nn.sigmoid(jnp.max(outputs['keypoint'], axis=-1)),
            'target_keypoint': jnp.max(targets['keypoint'], axis=-1),
            'offset': outputs['long'][..., center],
            'target_offset': targets['long'][..., CENTER, :],
            'is_instance': targets['long_weight'] > 0,
            **self.ponder_maps(variables, samples.image),
        }

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `System.draw_pictures`.

        'keypoints' shows the highest heat of all kinds, 'offsets' the long-range offsets to the
        centre, within the true instances.
        """
        pictures = super().draw_pictures(maps, image, colors)
        for prefix in ('', 'target_'):
            pictures[f'{prefix}keypoints'] = heatmap_picture(maps[f'{prefix}keypoint'], image)
            offset = maps[f'{prefix}offset']
            pictures[f'{prefix}offsets'] = draw_offset(offset, maps['is_instance'])
        return pictures


class DeeperLabAveraging(DeepLabAveraging):
    """Averages class probabilities, heat and offsets."""

    def mirror(self, outputs: Outputs, is_flipped: ArrayLike) -> Outputs:
        """See `Averaging.mirror`; left and right keypoints change places, dx its sign."""
        mirrored = {key: x[:, :, ::-1] for key, x in outputs.items()}
        for key, order in _MIRRORED.items():
            x = mirrored[key]
            kinds = x.reshape(*x.shape[:3], len(order), -1)[:, :, :, jnp.array(order)]
            sign = jnp.array([1.0, -1.0]) if key in OFFSETS else 1.0
            mirrored[key] = (kinds * sign).reshape(x.shape)
        return jax.tree.map(lambda x, y: jnp.where(is_flipped, y, x), outputs, mirrored)

    def to_mean(self, outputs: Outputs) -> Outputs:
        """See `Averaging.to_mean`."""
        return {**super().to_mean(outputs), 'keypoint': jax.nn.sigmoid(outputs['keypoint'])}

    def from_mean(self, outputs: Outputs) -> Outputs:
        """See `Averaging.from_mean`."""
        smallest = float(jnp.finfo(jnp.float32).eps)
        heat = jnp.clip(outputs['keypoint'], smallest, 1 - smallest)
        return {**super().from_mean(outputs), 'keypoint': jnp.log(heat) - jnp.log1p(-heat)}
