"""DeeperLab's votes, grouping and assignment: stored values, small cases, and true maps."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.ops.keypoints import CENTER
from pdl_jax.postprocess.keypoint_candidates import Candidates, vote_keypoints
from pdl_jax.postprocess.keypoint_grouping import (
    assign_pixels,
    group_candidates,
    measure_distance,
    point_from_pixels,
)
from pdl_jax.postprocess.keypoint_instances import KeypointPostprocessOptions, find_instances
from pdl_jax.preprocess.keypoint_targets import draw_keypoints, locate_keypoints

_CERTAIN = 30.0


@pytest.fixture(scope='module')
def golden(find_golden):
    return np.load(find_golden('deeperlab', 'own_targets_hough'))


def channels_last(x):
    order = (2, 3, 0, 1) if x.ndim == 4 else (1, 2, 0)
    return jnp.asarray(np.transpose(x, order), jnp.float32)


@pytest.mark.parametrize('kind', ['exact', 'noisy'])
def test_votes_equal_the_golden(golden, kind):
    prefix = 'noisy_' if kind == 'noisy' else ''
    heatmap, short = (channels_last(golden[prefix + name]) for name in ('heatmap', 'short'))
    votes = vote_keypoints(heatmap, short, radius_px=float(golden['radius']))
    np.testing.assert_allclose(votes, channels_last(golden[f'hough_{kind}']), atol=1e-6)


def test_votes_out_of_the_map_are_dropped():
    heatmap = jnp.ones((4, 5, 1))
    short = jnp.full((4, 5, 1, 2), 1e30)
    assert not np.any(vote_keypoints(heatmap, short, radius_px=1.0))
    # Half of every vote leaves over the right border of the last column.
    short = jnp.zeros((4, 5, 1, 2)).at[..., 1].set(0.5)
    votes = vote_keypoints(heatmap, short, radius_px=1.0)[..., 0] * np.pi
    np.testing.assert_allclose(votes, np.tile([0.5, 1, 1, 1, 1], (4, 1)), atol=1e-6)


def test_assignment_equals_the_golden(golden):
    votes = point_from_pixels(channels_last(golden['noisy_long']))
    keypoints = jnp.asarray(golden['keypoints'], jnp.float32)
    distance = jnp.stack([measure_distance(points, votes) for points in keypoints])
    np.testing.assert_allclose(distance, golden['distance'], atol=1e-5)
    instance = assign_pixels(keypoints, jnp.ones(len(keypoints), bool), votes)
    is_inside = golden['instance_ids'] > 0
    np.testing.assert_array_equal(np.where(is_inside, instance, 0), golden['assignment'])


def group(positions, kinds, *, max_instances=4, num_valid=None):
    positions = jnp.asarray(positions, jnp.float32)
    count = len(positions)
    keypoints = jnp.zeros((count, 5, 2)).at[jnp.arange(count), jnp.asarray(kinds)].set(positions)
    valid = jnp.arange(count) < (count if num_valid is None else num_valid)
    candidates = Candidates(positions, jnp.asarray(kinds), jnp.ones(count), valid)
    return keypoints, *group_candidates(
        candidates, keypoints, radius_px=5.0, max_instances=max_instances
    )


def test_a_keypoint_within_the_radius_of_a_known_one_begins_no_instance():
    # The second lies 5 px beside the first, the third is of another kind, the fourth 6 px away.
    positions = [(20, 20), (23, 24), (20, 20), (20, 26)]
    keypoints, instances, valid = group(positions, [0, 0, 1, 0])
    np.testing.assert_array_equal(valid, [True, True, True, False])
    np.testing.assert_array_equal(instances[:3], keypoints[jnp.array([0, 2, 3])])


def test_the_capacity_and_invalid_candidates_end_the_queue():
    positions = [(0, 0), (20, 0), (40, 0)]
    _, instances, valid = group(positions, [2, 2, 2], max_instances=2)
    np.testing.assert_array_equal(instances[:, 2], positions[:2])
    assert np.all(valid)
    _, _, valid = group(positions, [2, 2, 2], num_valid=1)
    np.testing.assert_array_equal(valid, [True, False, False, False])


@functools.partial(jax.jit, static_argnames=('max_instances', 'radius_px'))
def find_by_truth(ids, is_hidden=None, *, max_instances=64, radius_px=10.0):
    """Sends true maps of instances 1, 2, ... through votes and grouping."""
    index = jnp.where(ids > 0, ids - 1, max_instances)
    keypoints, area = locate_keypoints(index, max_instances)
    maps = draw_keypoints(keypoints, index, area > 0, radius_px=radius_px)
    logits = jnp.where(maps['keypoint'] > 0, _CERTAIN, -_CERTAIN)
    if is_hidden is not None:
        logits = jnp.where(is_hidden, -_CERTAIN, logits)
    offsets = (maps[name].reshape(*ids.shape, -1) for name in ('short', 'middle', 'long'))
    options = KeypointPostprocessOptions(
        radius_px=radius_px, max_candidates=max_instances, max_instances=max_instances
    )
    found, scores = find_instances(logits, *offsets, options=options)
    return jnp.where(ids > 0, found, 0), scores


@pytest.fixture(scope='module')
def blocks():
    ids = np.zeros((48, 64), np.int32)
    ids[4:20, 5:25] = 1
    ids[16:40, 25:60] = 2
    return ids


@pytest.mark.parametrize('seen', [0, 3, CENTER])
def test_one_keypoint_is_enough_for_an_instance(blocks, seen):
    is_hidden = np.arange(5) != seen
    found, scores = find_by_truth(blocks, is_hidden, max_instances=4, radius_px=4.0)
    np.testing.assert_array_equal((found > 0), blocks > 0)
    pairs = {tuple(pair) for pair in np.stack([blocks, found], -1).reshape(-1, 2)}
    assert len(pairs) == 3 and {pair[1] for pair in pairs} == {0, 1, 2}
    np.testing.assert_allclose(scores, [0.2, 0.2, 0, 0], atol=1e-3)


def read_instances(shared_dir, limit):
    """The things of COCO's panoptic maps, crowds left out, in the corner of 640x640 pixels."""
    root = shared_dir / 'data' / 'coco_panoptic_200' / 'train'
    if not root.is_dir():
        pytest.skip(f'no pictures at {root}')
    document = json.loads((root / 'panoptic_train.json').read_text())
    things = {c['id'] for c in document['categories'] if c['isthing']}
    for annotation in sorted(document['annotations'], key=lambda a: a['file_name'])[:limit]:
        rgb = Image.open(root / 'panoptic_train' / annotation['file_name']).convert('RGB')
        labels = np.asarray(rgb).astype(np.int64) @ [1, 256, 65536]
        segments = [s for s in annotation['segments_info'] if not s['iscrowd']]
        ids = np.zeros((640, 640), np.int32)
        kept = [s['id'] for s in segments if s['category_id'] in things]
        for number, label in enumerate(kept, 1):
            ids[: labels.shape[0], : labels.shape[1]][labels == label] = number
        if kept:
            yield ids, len(kept)


@pytest.mark.slow
def test_true_maps_of_coco_are_grouped_again(shared_dir):
    # Over the first 60 of these pictures 494 of 504 instances are found again, PQ 0.981. The
    # others lie within others whose keypoints are less than the radius away.
    total, num_true, num_found, matched = 0.0, 0, 0, 0
    for ids, count in read_instances(shared_dir, 12):
        found = np.asarray(find_by_truth(ids)[0])
        table = np.zeros((count + 1, found.max() + 1), int)
        np.add.at(table, (ids.reshape(-1), found.reshape(-1)), 1)
        union = table.sum(1)[:, None] + table.sum(0) - table
        iou = (table / np.maximum(union, 1))[1:, 1:]
        total += iou[iou > 0.5].sum()
        matched += (iou > 0.5).sum()
        num_true += count
        num_found += (table.sum(0)[1:] > 0).sum()
    assert num_true > 50
    assert total / (matched + (num_true - matched) / 2 + (num_found - matched) / 2) >= 0.97
