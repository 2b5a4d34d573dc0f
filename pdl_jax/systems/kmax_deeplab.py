"""kMaX-DeepLab and ReMaX: a mask and a class for each of a fixed number of queries."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.losses.distillation import Lesson
from pdl_jax.losses.mask_transformer import MaskLossOptions, mask_transformer_loss
from pdl_jax.losses.segment_queries import match_queries
from pdl_jax.models.adaptive_computation import COLLECTION
from pdl_jax.models.kmax_options import KMAX_FIELDS, KMaXNetworkOptions
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.models.pixel_decoder import resize_mode
from pdl_jax.ops.placement import map_per_device
from pdl_jax.postprocess.image_sizes import ImageSizes
from pdl_jax.postprocess.mask_options import MaskPostprocessOptions
from pdl_jax.postprocess.masks import label_masks
from pdl_jax.preprocess.mask_targets import MaskTargetOptions, make_mask_targets
from pdl_jax.presets import make_kmax_network
from pdl_jax.systems.computation import add_ponder_loss
from pdl_jax.systems.distillation import Distillation, add_distillation
from pdl_jax.systems.drawing.queries import color_queries
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.network_system import NetworkSystem
from pdl_jax.systems.pixel_grid import PixelGrid
from pdl_jax.systems.system import (
    LabelMaps,
    Outputs,
    Samples,
    Variables,
    image_size,
)
from pdl_jax.typing import Array, LabelFormat, MaskTargets

_CERTAIN = 20.0
# Of a class at a pixel; the logarithm of less would rule the divergence from a teacher.
_LEAST_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class KMaXDeepLabOptions(NetworkSystemOptions):
    """The options of kMaX-DeepLab, see `NetworkSystemOptions`."""

    name: ClassVar[str] = 'kmax_deeplab'
    oracles: ClassVar[tuple[str, ...]] = ('class', 'mask')
    network_fields: ClassVar[Mapping[str, type]] = KMAX_FIELDS.types
    list_network = staticmethod(KMAX_FIELDS.list)
    make_network = staticmethod(make_kmax_network)
    base_config: ClassVar[str] = 'kmax'
    inference_fields: ClassVar[tuple[str, ...]] = (
        'thing_threshold',
        'stuff_threshold',
        'pixel_threshold',
        'overlap_threshold',
        'min_score',
        'thing_area_limit_px',
        'stuff_area_limit_px',
    )

    max_instances_field: ClassVar[str] = 'targets.max_segments'

    model: KMaXNetworkOptions | MaXNetworkOptions = KMaXNetworkOptions()
    targets: MaskTargetOptions = MaskTargetOptions()
    loss: MaskLossOptions = MaskLossOptions()
    postprocess: MaskPostprocessOptions = MaskPostprocessOptions()

    @property
    def max_instances(self) -> int | None:
        """See `SystemOptions.max_instances`."""
        return self.targets.max_segments

    @property
    def tuning_choices(self) -> dict[str, tuple[Any, ...]]:
        """See `SystemOptions.tuning_choices`; the first three are searched in every combination."""
        return {
            'thing_threshold': (0.1, 0.2, 0.3, 0.5, 0.7),
            'stuff_threshold': (0.1, 0.3, 0.5),
            'overlap_threshold': (0.5, 0.65, 0.8),
            'min_score': tuple(i / 20 for i in range(19)),
            'stuff_area_limit_px': (0, *(2**i for i in range(2, 14))),
        }

    def make_system(self, label_format: LabelFormat) -> 'KMaXDeepLabSystem':
        """See `SystemOptions.make_system`."""
        return KMaXDeepLabSystem(label_format, self)


@dataclasses.dataclass(frozen=True)
class KMaXDeepLabSystem(NetworkSystem):
    """Labels every pixel by the masks of queries.

    The outputs are 'mask_logits' f32[B, h, w, N] and 'class_logits' f32[B, N, K + 1].

    Queries of two passes over an image do not correspond, so their outputs have no average.

    Attributes:
      options: what the configuration decides.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022; Sun et al., ReMaX, NeurIPS 2023.
    """

    options: KMaXDeepLabOptions
    max_segments_field: ClassVar[str] = 'model.num_queries'

    @property
    def num_classes(self) -> int:
        """See `NetworkSystem.num_classes`; queries have a logit of their own for void."""
        return len(self.label_format.valid_classes)

    @property
    def grid(self) -> PixelGrid:
        """See `System.grid`; by parity, every map of such an input has aligned corners."""
        model = self.options.model
        return PixelGrid(model.backbone.output_stride, model.resize != 'half_pixel')

    @property
    def max_segments(self) -> int:
        """See `System.max_segments`."""
        return self.options.model.num_queries

    def make_targets(self, panoptic: Array, size: tuple[int, int]) -> MaskTargets:
        """Makes the targets of a batch at `size` (height, width) of the masks, in pixels."""

        def make(labels: Array) -> MaskTargets:
            return make_mask_targets(
                labels, size=size, label_format=self.label_format, options=self.options.targets
            )

        return map_per_device(jax.vmap(make))(panoptic)

    def loss(
        self,
        variables: Variables,
        samples: Samples,
        *,
        rng: Array,
        distillation: Distillation | None = None,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """See `System.loss`; terms are sums over the layers of the transformer decoder."""
        dropout_rng, sampling_rng = jax.random.split(rng)
        outputs, updates = self.network.apply(
            variables,
            samples.image,
            train=True,
            with_auxiliary=True,
            rngs={'dropout': dropout_rng},
            mutable=['batch_stats', COLLECTION],
        )
        updates = dict(updates)
        targets = self.make_targets(samples.panoptic, image_size(outputs['mask_logits']))
        loss, terms = mask_transformer_loss(
            outputs,
            outputs['auxiliary'],
            outputs.get('semantic'),
            targets,
            num_classes=self.num_classes,
            options=self.options.loss,
            rng=sampling_rng,
            resize=resize_mode(self.options.model.resize, targets.segment.shape[1]),
        )
        loss, terms = add_ponder_loss(loss, terms, updates, self.options.loss.ponder_weight)
        loss, terms = add_distillation(loss, terms, distillation, self, outputs, samples.image)
        return loss, (terms, updates)

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        """See `System.lessons`: 'mask', whose queries are matched, and 'semantic' of pixels.

        The probability of a class at a pixel is that of its queries, weighted by their masks.
        """
        del size
        masks, classes = outputs['mask_logits'], outputs['class_logits']
        valid = self.label_format.valid_classes
        of_query = jax.nn.softmax(classes)[..., : len(valid)]
        of_pixel = jnp.einsum('bhwn,bnk->bhwk', jax.nn.softmax(masks), of_query)
        of_class = of_pixel @ jax.nn.one_hot(jnp.array(valid), self.label_format.num_classes)
        logits = jnp.log(jnp.maximum(of_class, _LEAST_PROBABILITY))
        return {
            'mask': Lesson('queries', masks, classes=classes),
            'semantic': Lesson('classes', logits),
        }

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """See `System.label_maps`."""
        return self._label_maps(outputs, size)

    def label_original_maps(
        self,
        outputs: Outputs,
        *,
        size: tuple[int, int],
        image_size: Array,
        original_size: Array,
        canvas: tuple[int, int],
    ) -> LabelMaps | None:
        """See `System.label_original_maps`; DeepLab2 labels the input with its padding."""
        if self.options.postprocess.convention == 'deeplab2':
            return None
        return self._label_maps(outputs, size, ImageSizes(image_size, original_size, canvas))

    def _label_maps(
        self, outputs: Outputs, size: tuple[int, int], images: ImageSizes | None = None
    ) -> LabelMaps:
        maps = label_masks(
            outputs['mask_logits'],
            outputs['class_logits'],
            label_format=self.label_format,
            options=self.options.postprocess,
            size=size,
            resize=self.grid.resize,
            images=images,
        )
        return LabelMaps(**maps)

    def replace_by_truth(self, outputs: Outputs, panoptic: Array, oracle: Sequence[str]) -> Outputs:
        """See `System.replace_by_truth`.

        'class': each query has the class of its segment in the matching of the loss, or none.
        'mask': it has that segment's mask; queries without a segment keep theirs elsewhere.
        """
        targets = self.make_targets(panoptic, image_size(outputs['mask_logits']))
        mask_logits, class_logits = outputs['mask_logits'], outputs['class_logits']
        matches = match_queries(mask_logits, class_logits, targets)
        if 'class' in oracle:
            is_class = jax.nn.one_hot(matches.label, class_logits.shape[-1])
            class_logits = _CERTAIN * is_class
        if 'mask' in oracle:
            is_mask = matches.owner[..., None] == jnp.arange(mask_logits.shape[-1])
            is_known = (matches.owner >= 0)[..., None]
            certain = jnp.where(is_mask, _CERTAIN, -_CERTAIN)
            mask_logits = jnp.where(is_known, certain, mask_logits)
        return {'mask_logits': mask_logits, 'class_logits': class_logits}

    def picture_maps(self, variables: Variables, samples: Samples) -> dict[str, Array]:
        """See `System.picture_maps`."""
        outputs: Any = self.network.apply(variables, samples.image, with_auxiliary=True)
        maps = self.label_maps(outputs, size=image_size(samples.image))
        targets = self.make_targets(samples.panoptic, image_size(outputs['mask_logits']))
        matches = match_queries(outputs['mask_logits'], outputs['class_logits'], targets)
        found = {
            **self.ponder_maps(variables, samples.image),
            'panoptic': maps.panoptic,
            'target_panoptic': samples.panoptic,
            'queries': jnp.argmax(outputs['mask_logits'], axis=-1),
            'matched': matches.owner,
        }
        if outputs['auxiliary']:
            last = outputs['auxiliary'][-1]['mask_logits']
            found['assignment'] = jnp.argmax(last, axis=-1)
        return found

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `System.draw_pictures`.

        'queries' shows the most likely query of each pixel, 'assignment' the cluster of the last
        step of k-means, and 'matched' the segments of the truth in the colours of their queries.
        """
        pictures = super().draw_pictures(maps, image, colors)
        num = self.options.model.num_queries
        size = image.shape[:2]
        return pictures | {
            name: color_queries(maps[name], num, size)
            for name in ('queries', 'assignment', 'matched')
            if name in maps
        }
