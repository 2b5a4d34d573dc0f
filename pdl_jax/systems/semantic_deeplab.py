"""The semantic DeepLabs: DeepLabv3, v3+, Lite R-ASPP, and Panoptic-DeepLab's semantic branch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from pdl_jax.postprocess.panoptic import label_semantic
from pdl_jax.systems.deeplab import DeepLabOptions, DeepLabSystem
from pdl_jax.systems.drawing.grid import training_pictures
from pdl_jax.systems.system import LabelMaps, Outputs, Samples, Variables, image_size
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class SemanticDeepLabOptions(DeepLabOptions):
    """The options of a semantic DeepLab."""

    name: ClassVar[str] = 'semantic_deeplab'
    oracles: ClassVar[tuple[str, ...]] = ('semantic',)
    has_instances: ClassVar[bool] = False

    def make_system(self, label_format: LabelFormat) -> 'SemanticDeepLab':
        """See `SystemOptions.make_system`."""
        return SemanticDeepLab(label_format, self)


@dataclasses.dataclass(frozen=True)
class SemanticDeepLab(DeepLabSystem):
    """Labels every pixel with a class; each class is one segment."""

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """See `System.label_maps`."""
        semantic, probability, _ = label_semantic(
            outputs['semantic'],
            label_format=self.label_format,
            size=size,
            resize=self.grid.resize,
        )
        panoptic = semantic * self.label_format.label_divisor
        return LabelMaps(panoptic, semantic, probability, jnp.ones_like(probability))

    def replace_by_truth(self, outputs: Outputs, panoptic: Array, oracle: Sequence[str]) -> Outputs:
        """See `System.replace_by_truth`."""
        return replace_semantic(outputs, panoptic, oracle, self.label_format)

    def picture_maps(self, variables: Variables, samples: Samples) -> dict[str, Array]:
        """See `System.picture_maps`."""
        targets = self.make_targets(samples.panoptic)
        outputs = self.outputs(variables, samples.image)
        maps = self.label_maps(outputs, size=image_size(samples.image))
        keys = ('semantic', 'semantic_weight')
        return {
            'semantic': maps.semantic,
            **self.ponder_maps(variables, samples.image),
            **{f'target_{key}': targets[key] for key in keys},
        }

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """See `System.draw_pictures`."""
        return draw_targets_and_predictions(maps, image, colors, self.label_format)


def replace_semantic(
    outputs: Outputs, panoptic: Array, oracle: Sequence[str], label_format: LabelFormat
) -> Outputs:
    """Puts certain logits of the true classes in the place of the predicted ones, void aside."""
    if 'semantic' not in oracle:
        return outputs
    semantic = panoptic // label_format.label_divisor
    is_class = semantic[..., None] == jnp.arange(label_format.num_classes)
    is_void = (semantic == label_format.ignore_label)[..., None]
    certain = jnp.where(is_class, 0.0, -jnp.inf)
    return {**outputs, 'semantic': jnp.where(is_void, outputs['semantic'], certain)}


def draw_targets_and_predictions(
    maps: Mapping[str, np.ndarray],
    image: np.ndarray,
    colors: np.ndarray,
    label_format: LabelFormat,
) -> dict[str, np.ndarray]:
    """Draws maps whose names begin with 'target_' as targets and the others as predictions."""
    prefix = 'target_'
    target = {key.removeprefix(prefix): x for key, x in maps.items() if key.startswith(prefix)}
    prediction = {key: x for key, x in maps.items() if not key.startswith(prefix)}
    return training_pictures(image, target, prediction, label_format=label_format, colors=colors)
