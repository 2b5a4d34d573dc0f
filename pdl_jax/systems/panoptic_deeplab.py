"""Panoptic-DeepLab: semantic classes, instance centres and offsets, merged by majority vote."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pdl_jax.postprocess.centers import MAX_PIXELS
from pdl_jax.postprocess.image_sizes import ImageSizes
from pdl_jax.postprocess.original_size import post_process_originals
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.systems.deeplab import DeepLabOptions, DeepLabSystem
from pdl_jax.systems.rejection import reject_things
from pdl_jax.systems.semantic_deeplab import draw_targets_and_predictions, replace_semantic
from pdl_jax.systems.system import LabelMaps, Outputs, Samples, Variables, image_size
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class PanopticDeepLabOptions(DeepLabOptions):
    """The options of Panoptic-DeepLab."""

    name: ClassVar[str] = 'panoptic_deeplab'
    oracles: ClassVar[tuple[str, ...]] = ('semantic', 'center', 'offset')
    inference_fields: ClassVar[tuple[str, ...]] = (
        'center_threshold',
        'nms_kernel_px',
        'max_centers',
        'min_score',
        'min_area_px',
        'stuff_area_limit_px',
    )

    @property
    def max_instances(self) -> int | None:
        """See `SystemOptions.max_instances`."""
        return self.targets.max_instances

    @property
    def tuning_choices(self) -> dict[str, tuple[Any, ...]]:
        """See `SystemOptions.tuning_choices`; windows in proportion to the present one."""
        areas = (0, *(2**i for i in range(2, 14)))
        # Odd windows reach equally far to all sides.
        radii = (
            factor * (self.postprocess.nms_kernel_px - 1) / 2
            for factor in (0.35, 0.65, 1.6, 2.5, 4)
        )
        return {
            'center_threshold': (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
            'nms_kernel_px': tuple(2 * round(radius) + 1 for radius in radii),
            'min_score': tuple(i / 20 for i in range(19)),
            'min_area_px': areas,
            'stuff_area_limit_px': areas,
        }

    def make_system(self, label_format: LabelFormat) -> 'PanopticDeepLab':
        """See `SystemOptions.make_system`."""
        return PanopticDeepLab(label_format, self)


@dataclasses.dataclass(frozen=True)
class PanopticDeepLab(DeepLabSystem):
    """Labels every pixel with a class and an instance.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020.
    """

    @property
    def max_segments(self) -> int:
        """See `System.max_segments`: one per centre and one per stuff class."""
        return self.options.postprocess.max_centers + self.label_format.num_classes

    @property
    def max_pixels(self) -> int | None:
        """See `System.max_pixels`."""
        return MAX_PIXELS

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """See `System.label_maps`."""
        return self._label_maps(outputs, size)

    def label_padded_maps(
        self, outputs: Outputs, *, size: tuple[int, int], image_size: Array
    ) -> LabelMaps:
        """See `System.label_padded_maps`; the padding takes part unless the options say no."""
        is_cut = self.options.postprocess.is_padding_cut
        return self._label_maps(outputs, size, image_size if is_cut else None)

    def label_original_maps(
        self,
        outputs: Outputs,
        *,
        size: tuple[int, int],
        image_size: Array,
        original_size: Array,
        canvas: tuple[int, int],
    ) -> LabelMaps | None:
        """See `System.label_original_maps`."""
        if not self.options.postprocess.is_at_original_size:
            return None
        maps = post_process_originals(
            outputs,
            ImageSizes(image_size, original_size, canvas),
            label_format=self.label_format,
            options=self.options.postprocess,
            size=size,
            resize=self.grid.resize,
        )
        return _to_label_maps(maps)

    def _label_maps(
        self, outputs: Outputs, size: tuple[int, int], image_size: Array | None = None
    ) -> LabelMaps:
        maps = post_process(
            self.upsample_instances(outputs, size),
            label_format=self.label_format,
            options=self.options.postprocess,
            size=size,
            resize=self.grid.resize,
            image_size=image_size,
        )
        return _to_label_maps(maps)

    def filter_segments(self, maps: LabelMaps) -> LabelMaps:
        """See `System.filter_segments`."""
        options = self.options.postprocess
        return reject_things(self, maps, options.min_score, options.min_area_px)

    def replace_by_truth(self, outputs: Outputs, panoptic: Array, oracle: Sequence[str]) -> Outputs:
        """See `System.replace_by_truth`.

        Source: Cheng et al., Panoptic-DeepLab technical report, table 2.
        """
        truth = self.make_targets(panoptic)
        outputs = replace_semantic(outputs, panoptic, oracle, self.label_format)
        if 'center' in oracle:
            outputs = {**outputs, 'center': truth['center'][..., None]}
        if 'offset' in oracle:
            outputs = {**outputs, 'offset': truth['offset']}
        return outputs

    def picture_maps(self, variables: Variables, samples: Samples) -> dict[str, Array]:
        """See `System.picture_maps`."""
        size = image_size(samples.image)
        targets = self.make_targets(samples.panoptic)
        outputs = self.outputs(variables, samples.image)
        outputs = self.upsample_instances(outputs, size)
        maps = self.label_maps(outputs, size=size)
        return {
            'semantic': maps.semantic,
            'panoptic': maps.panoptic,
            'center': outputs['center'][..., 0],
            'offset': outputs['offset'],
            **self.ponder_maps(variables, samples.image),
            **{f'target_{key}': value for key, value in targets.items()},
        }

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `System.draw_pictures`."""
        return draw_targets_and_predictions(maps, image, colors, self.label_format)


def _to_label_maps(maps: dict[str, Array]) -> LabelMaps:
    return LabelMaps(
        maps['panoptic'], maps['semantic'], maps['class_probability'], maps['center_score']
    )
