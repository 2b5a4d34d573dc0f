"""Results of a network that is always right, from label maps."""

import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.categories import Category
from pdl_jax.prediction.formats import describe_segments
from pdl_jax.prediction.result import Box, PanopticResult, Point, Segment

SPEC = DatasetSpec(
    'shapes',
    (
        Category(1, 'disk', True, (200, 0, 0)),
        Category(2, 'bar', True, (0, 200, 0)),
        Category(3, 'ground', False, (0, 0, 200)),
        Category(4, 'sky', False, (0, 200, 200)),
    ),
    0,
    255,
    1000,
)
DISK, BAR, GROUND, SKY = range(4)


def make_result(panoptic: np.ndarray, score=0.5) -> PanopticResult:
    """The result of a network that sees this, with numbers of its own for objects."""
    labels = np.unique(panoptic)
    numbers: dict[int, int] = {}
    renumbered = np.full_like(panoptic, SPEC.label_format.void_label)
    segments = []
    for label in np.random.default_rng(int(panoptic.sum())).permutation(labels).tolist():
        class_id, instance = divmod(label, 1000)
        if class_id == 255:
            continue
        numbers[class_id] = numbers.get(class_id, 0) + (instance > 0)
        renumbered[panoptic == label] = class_id * 1000 + numbers[class_id] * (instance > 0)
    for described in describe_segments(renumbered, SPEC):
        label = described['label']
        category = SPEC.category_of_class[label // 1000]
        x, y, width, height = described['bbox']
        rows, columns = np.nonzero(renumbered == label)
        segments.append(
            Segment(
                label=label,
                class_id=label // 1000,
                class_name=category.name,
                category_id=category.id,
                is_thing=category.is_thing,
                score=score,
                area_px=described['area'],
                centroid=Point(float(rows.mean()), float(columns.mean())),
                box=Box(y, x, y + height, x + width),
            )
        )
    return PanopticResult(renumbered, tuple(segments), SPEC)
