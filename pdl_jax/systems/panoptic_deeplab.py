"""Panoptic-DeepLab: semantic classes, instance centres and offsets, merged by majority vote."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from pdl_jax.postprocess.centers import MAX_PIXELS
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.systems.deeplab import DeepLabOptions, DeepLabSystem
from pdl_jax.systems.semantic_deeplab import draw_targets_and_predictions, replace_semantic
from pdl_jax.systems.system import LabelMaps, Outputs, Samples, Variables, image_size
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class PanopticDeepLabOptions(DeepLabOptions):
    """The options of Panoptic-DeepLab."""

    name: ClassVar[str] = 'panoptic_deeplab'
    oracles: ClassVar[tuple[str, ...]] = ('semantic', 'center', 'offset')

    @property
    def max_instances(self) -> int | None:
        """See `SystemOptions.max_instances`."""
        return self.targets.max_instances

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
        if outputs['center'].shape[1:3] != size:
            outputs = self.upsample(outputs, size, is_partial=True)
        maps = post_process(
            outputs,
            label_format=self.label_format,
            options=self.options.postprocess,
            size=size,
            resize=self.grid.resize,
        )
        return LabelMaps(
            maps['panoptic'], maps['semantic'], maps['class_probability'], maps['center_score']
        )

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
        outputs = self.upsample(outputs, size, is_partial=True)
        maps = self.label_maps(outputs, size=size)
        return {
            'semantic': maps.semantic,
            'panoptic': maps.panoptic,
            'center': outputs['center'][..., 0],
            'offset': outputs['offset'],
            **{f'target_{key}': value for key, value in targets.items()},
        }

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `System.draw_pictures`."""
        return draw_targets_and_predictions(maps, image, colors, self.label_format)
