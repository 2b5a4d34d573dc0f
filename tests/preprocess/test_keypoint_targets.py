"""DeeperLab's targets against stored ones and against loops over pixels."""

import jax
import numpy as np
import pytest

from pdl_jax.ops.keypoints import (
    EDGES,
    KEYPOINTS,
    MIRRORED_EDGES,
    MIRRORED_KEYPOINTS,
    NUM_KEYPOINTS,
)
from pdl_jax.preprocess.keypoint_targets import (
    KeypointTargetOptions,
    draw_keypoints,
    locate_keypoints,
    make_keypoint_targets,
)
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(num_classes=4, thing_classes=(1, 2), ignore_label=255, label_divisor=100)
_PAIRS = tuple((start, end) for start in range(NUM_KEYPOINTS) for end in range(NUM_KEYPOINTS))


@pytest.fixture(scope='module')
def golden(find_golden):
    return np.load(find_golden('deeperlab', 'own_targets_hough'))


def test_equals_the_golden(golden):
    num = len(golden['keypoints'])
    index = np.where(golden['instance_ids'] > 0, golden['instance_ids'] - 1, num).astype(np.int32)
    keypoints, area = locate_keypoints(index, num)
    np.testing.assert_allclose(keypoints, golden['keypoints'], atol=1e-5)
    radius = float(golden['radius'])
    maps = draw_keypoints(keypoints, index, area > 0, radius_px=radius, edges=_PAIRS)
    np.testing.assert_array_equal(np.moveaxis(maps['keypoint'], -1, 0), golden['heatmap'])
    for name in ('short', 'long'):
        np.testing.assert_allclose(np.transpose(maps[name], (2, 3, 0, 1)), golden[name], atol=1e-5)
    middle = np.transpose(maps['middle'], (2, 3, 0, 1)).reshape(5, 5, 2, 48, 64)
    np.testing.assert_allclose(middle[..., ::2, ::2], golden['middle'], atol=1e-5)


def make_panoptic():
    """Two close instances, one at the border, a crowd, void and stuff."""
    panoptic = np.full((40, 50), 3 * FORMAT.label_divisor, np.int32)
    panoptic[5:12, 6:15] = 101
    panoptic[7:12, 15:26] = 102
    panoptic[30:, 44:] = 207
    panoptic[20:24, 2:9] = 100
    panoptic[20:24, 30:35] = FORMAT.void_label
    return panoptic


def draw_by_loop(panoptic, radius):
    """Keypoints, discs and offsets of every instance, pixel by pixel in float64."""
    labels = [x for x in np.unique(panoptic) if x // 100 in (1, 2) and x % 100]
    keypoints = []
    for label in labels:
        y, x = np.nonzero(panoptic == label)
        corners = [(a, b) for a in (y.min(), y.max()) for b in (x.min(), x.max())]
        keypoints.append([*corners, (y.mean(), x.mean())])
    keypoints = np.array(keypoints, float)
    size = panoptic.shape
    maps = {
        'keypoint': np.zeros((*size, 5)),
        'short': np.zeros((*size, 5, 2)),
        'middle': np.zeros((*size, len(EDGES), 2)),
        'long': np.zeros((*size, 5, 2)),
    }
    for place in np.ndindex(*size):
        if panoptic[place] in labels:
            maps['long'][place] = keypoints[labels.index(panoptic[place])] - place
        distance = np.linalg.norm(keypoints - np.array(place), axis=-1)
        owner = distance.argmin(0)
        for kind in range(5):
            if distance[owner[kind], kind] <= radius:
                maps['keypoint'][place][kind] = 1
                maps['short'][place][kind] = keypoints[owner[kind], kind] - place
        for edge, (start, end) in enumerate(EDGES):
            if distance[owner[start], start] <= radius:
                maps['middle'][place][edge] = keypoints[owner[start], end] - place
    return maps


@pytest.fixture(scope='module')
def make():
    def make(panoptic, **fields):
        options = KeypointTargetOptions(**{'radius_px': 4, 'max_instances': 8, **fields})
        return make_keypoint_targets(panoptic, label_format=FORMAT, options=options)

    return jax.jit(make, static_argnames=('max_instances', 'small_instance_area_px'))


def test_equals_loops_over_pixels(make):
    panoptic = make_panoptic()
    targets = make(panoptic, small_instance_area_px=60)
    for name, expected in draw_by_loop(panoptic, 4).items():
        np.testing.assert_allclose(targets[name], expected, atol=1e-5, err_msg=name)
    is_instance = np.isin(panoptic, (101, 102, 207))
    np.testing.assert_array_equal(targets['long_weight'], is_instance)
    is_left_out = np.isin(panoptic, (100, FORMAT.void_label))
    np.testing.assert_array_equal(targets['keypoint_weight'], ~is_left_out)
    np.testing.assert_array_equal(
        targets['semantic'], np.where(is_left_out, FORMAT.ignore_label, panoptic // 100)
    )
    # 63, 55 and 60 pixels.
    np.testing.assert_array_equal(targets['semantic_weight'], np.where(panoptic == 102, 3, 1))


def test_instances_beyond_the_limit_have_no_target_and_are_no_background(make):
    panoptic = make_panoptic()
    targets = make(panoptic, max_instances=2)
    assert not np.any(targets['long'][35:, 46:])
    np.testing.assert_array_equal(np.asarray(targets['keypoint_weight'])[panoptic == 207], 0)
    np.testing.assert_array_equal(np.asarray(targets['long_weight'])[panoptic == 207], 0)
    assert np.all(np.asarray(targets['long_weight'])[panoptic == 102] == 1)


def test_the_mirror_image_swaps_left_and_right(make):
    panoptic = make_panoptic()
    targets, mirrored = make(panoptic), make(panoptic[:, ::-1])
    assert [KEYPOINTS[i] for i in MIRRORED_KEYPOINTS[:2]] == ['top_right', 'top_left']
    for name, order in (
        ('short', MIRRORED_KEYPOINTS),
        ('long', MIRRORED_KEYPOINTS),
        ('middle', MIRRORED_EDGES),
    ):
        back = np.asarray(mirrored[name])[:, ::-1, list(order)] * [1, -1]
        np.testing.assert_allclose(back, targets[name], atol=1e-5, err_msg=name)
