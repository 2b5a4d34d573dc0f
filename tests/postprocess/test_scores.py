"""The table of segments against masks in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.postprocess.scores import map_center_scores, score_at_centroids, segment_table
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(5, (1, 2), 255, 100)


def make_table(panoptic, probability, center_score, max_segments):
    return jax.jit(
        lambda *maps: segment_table(*maps, label_format=FORMAT, max_segments=max_segments)
    )(panoptic, probability, center_score)


def test_rows_describe_the_masks():
    rng = np.random.default_rng(0)
    labels = np.array([0, 101, 107, 201, 300, FORMAT.void_label], np.int32)
    panoptic = np.kron(rng.choice(labels, (4, 6)), np.ones((5, 7), np.int32))
    panoptic[13, 20] = 299
    probability, center = rng.random((2, *panoptic.shape), np.float32)
    table = jax.tree.map(np.asarray, make_table(panoptic, probability, center, 9))
    present = [v for v in np.unique(panoptic) if v != FORMAT.void_label]
    assert table['valid'].tolist() == [i < len(present) for i in range(9)]
    for row, label in enumerate(present):
        mask = panoptic == label
        y, x = np.nonzero(mask)
        box = [y.min(), x.min(), y.max() + 1, x.max() + 1]
        score = probability[mask].mean() * (center[mask].mean() if label // 100 in (1, 2) else 1)
        assert table['label'][row] == label
        assert table['area'][row] == mask.sum()
        assert table['box'][row].tolist() == box
        np.testing.assert_allclose(table['score'][row], score, rtol=1e-5)
    rest = slice(len(present), None)
    np.testing.assert_array_equal(table['label'][rest], FORMAT.void_label)
    for name in ('area', 'box', 'score'):
        np.testing.assert_array_equal(table[name][rest], 0)


def test_rows_beyond_the_table_are_left_out():
    panoptic = np.array([[101, 102, 300, 103]], np.int32)
    ones = np.ones(panoptic.shape, np.float32)
    table = make_table(panoptic, ones, ones, 2)
    assert table['label'].tolist() == [101, 102]
    assert table['area'].tolist() == [1, 1]


def test_center_scores_follow_the_instances():
    instance = np.array([[0, 1, 3]], np.int32)
    scores = map_center_scores(instance, np.array([0.5, 0.25, 0.125], np.float32))
    assert scores.tolist() == [[0, 0.5, 0.125]]


def test_score_at_the_centroid():
    """The heat at the mean position of the pixels, rounded down, goes to all of them."""
    instance = jnp.array([[1, 0, 0, 2], [1, 0, 0, 2], [1, 1, 1, 0]])
    heatmap = jnp.arange(12.0).reshape(3, 4) / 10
    # Instance 1: mean (7 / 5, 3 / 5) -> (1, 0); instance 2: mean (1 / 2, 3) -> (0, 3).
    scores = score_at_centroids(instance, heatmap, max_instances=3)
    expected = np.where(instance == 1, 0.4, np.where(instance == 2, 0.3, 0.0))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
