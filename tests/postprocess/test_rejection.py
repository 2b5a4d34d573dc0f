"""Removal of uncertain and small things."""

import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.postprocess.rejection import drop_things
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.typing import LabelFormat

# Void beyond the classes, and inside of them as in COCO.
FORMATS = (LabelFormat(3, (1, 2), 255, 256), LabelFormat(4, (1, 2), 0, 256))


@pytest.mark.slow
@pytest.mark.parametrize('label_format', FORMATS)
def test_low_things_become_void_and_the_rest_stays(label_format):
    stuff = 0 if label_format.ignore_label else 768
    panoptic = np.full((6, 10), stuff, np.int32)
    panoptic[0, 0] = 257  # One pixel, sure.
    panoptic[1:3, 1:5] = 258  # Eight pixels, unsure.
    panoptic[3:5, 5:9] = 513  # Eight pixels, sure.
    panoptic[5, 9] = label_format.void_label
    score = np.where(panoptic == 258, 0.25, 0.75).astype(np.float32)
    table = segment_table(
        jnp.asarray(panoptic),
        jnp.ones((6, 10)),
        jnp.asarray(score),
        label_format=label_format,
        max_segments=8,
    )
    centroids = dict(zip(table['label'].tolist(), table['centroid'].tolist(), strict=True))
    assert centroids[258] == [1.5, 2.5] and centroids[257] == [0, 0]

    def drop(min_score, min_area_px):
        dropped = drop_things(
            panoptic,
            table,
            label_format=label_format,
            min_score=min_score,
            min_area_px=min_area_px,
        )
        kept = set(np.unique(panoptic)) - set(np.unique(dropped))
        expected = np.where(np.isin(panoptic, list(kept)), label_format.void_label, panoptic)
        np.testing.assert_array_equal(dropped, expected)
        return kept

    assert drop(0.0, 0) == set()
    assert drop(0.25, 1) == set()
    assert drop(0.26, 0) == {258}
    assert drop(0.0, 2) == {257}
    assert drop(0.5, 8) == {257, 258}
    assert drop(1.0, 100) == {257, 258, 513}
