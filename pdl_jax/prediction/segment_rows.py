"""The segments of a result, from the rows of their table."""

from collections.abc import Mapping

import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.prediction.result import Box, Point, Segment


def list_segments(
    table: Mapping[str, np.ndarray], spec: DatasetSpec, *, is_semantic: bool
) -> tuple[Segment, ...]:
    """Lists segments.

    Args:
      table: [S, ...] by name, see `postprocess.scores.segment_table`.
      spec: the classes and the meaning of labels.
      is_semantic: whether no segment is a thing.
    """
    segments = []
    for i in np.flatnonzero(table['valid']):
        label = int(table['label'][i])
        class_id = label // spec.label_divisor
        category = spec.category_of_class[class_id]
        segments.append(
            Segment(
                label=label,
                class_id=class_id,
                class_name=category.name,
                category_id=category.id,
                is_thing=category.is_thing and not is_semantic,
                score=float(np.clip(table['score'][i], 0.0, 1.0)),
                area_px=int(table['area'][i]),
                centroid=Point(*map(float, table['centroid'][i])),
                box=Box(*map(int, table['box'][i])),
            )
        )
    return tuple(segments)
