"""Proposals on generated scenes of cuboids on a road."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.proposals import candidates, frames, generated, kitti, potentials, proposer, scenes
from pdl_jax.proposals.class_model import DEFAULT_MODELS
from pdl_jax.proposals.kitti_label import stack_boxes
from pdl_jax.proposals.options import GridOptions, ProposalOptions, RoadOptions
from pdl_jax.proposals.overlap import space_iou

SIZE = (120, 400)
OPTIONS = ProposalOptions(
    GridOptions(x_m=(-8.0, 8.0), z_m=(0.0, 24.0)),
    RoadOptions(num_points=1024, num_planes=128),
    num_candidates=2048,
    num_proposals=100,
)
CARS = [
    ('Car', np.array([-2.5, 1.65, 9.0, 4.0, 1.5, 1.6, -math.pi / 2 + 0.03])),
    ('Car', np.array([3.0, 1.65, 14.0, 4.1, 1.5, 1.65, 0.04])),
]
PARKED_CARS = [
    ('Car', np.array([2.5, 1.65, 8.0, 3.9, 1.5, 1.6, -math.pi / 2 - 0.03])),
    ('Car', np.array([-4.0, 1.65, 12.0, 4.0, 1.45, 1.65, -math.pi / 2])),
]
CAR = DEFAULT_MODELS['Car']


@pytest.fixture(scope='module')
def read(tmp_path_factory):
    """Reads a frame of two cars from files of KITTI's layout, by the source of its points."""
    return make_reader(tmp_path_factory.mktemp('kitti'), SIZE)


def make_reader(root, size, cars=CARS):
    contents = generated.encode_frame(scenes.render_frame(cars, size))
    for key, content in contents.items():
        folder, suffix = kitti.FOLDERS[key]
        (root / 'training' / folder).mkdir(parents=True)
        (root / 'training' / folder / f'000000{suffix}').write_bytes(content)
    (files,) = kitti.list_frames(root)
    return lambda source: frames.read_frame(files, source)


def check_first_five(frame, cars=CARS):
    scene = frame.make_scene(OPTIONS)
    assert bool(scene.road.is_found)
    best = proposer.propose(scene, CAR, options=OPTIONS)
    assert best.boxes.shape == (100, 7) and best.valid[:5].all()
    truth = jnp.asarray(np.array([box for _, box in cars]), jnp.float32)
    iou = np.asarray(jax.jit(space_iou)(best.boxes[:5, None], truth))
    assert (iou.max(axis=0) > 0.5).all(), iou
    scores = np.asarray(best.scores)[np.asarray(best.valid)]
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize('source', ['depth', 'lidar'])
def test_the_best_box_of_each_object_is_among_the_first_five(read, source):
    check_first_five(read(source))


def test_a_matched_pair_gives_the_same(tmp_path):
    pytest.importorskip('cv2', reason="needs OpenCV: pip install 'pdl_jax[stereo]'")
    # A pair needs the resolution of KITTI: at 12 m it has a disparity of 32 pixels.
    check_first_five(make_reader(tmp_path, (375, 1242), PARKED_CARS)('stereo'), PARKED_CARS)


def test_candidates_have_the_potentials_of_their_boxes(read):
    frame = read('lidar')
    scene = frame.make_scene(OPTIONS)
    integrals = proposer.class_integrals(scene, CAR, OPTIONS.grid)
    extended = potentials.extend_integrals(integrals)

    @jax.jit
    def find(rng):
        found = candidates.list_candidates(
            extended,
            scene.road,
            CAR,
            scene.view,
            num_candidates=256,
            height_deviations=1.96,
            options=OPTIONS.grid,
            rng=rng,
        )
        places, is_inside = candidates.snap_boxes(found.boxes, scene.road, OPTIONS.grid)
        sums = potentials.sum_potentials(integrals, places, enlargement=3)
        return found, potentials.make_features(sums), is_inside

    found, features, is_inside = find(jax.random.key(1))
    valid = np.asarray(found.valid)
    assert valid.sum() > 200 and np.asarray(is_inside)[valid].all()
    np.testing.assert_allclose(found.features[valid], features[valid], rtol=1e-5, atol=1e-6)
    # Empty boxes are no candidates.
    assert (np.asarray(found.features)[valid, 0] > 0).all()
    low, high = found.image_boxes[:, :2], found.image_boxes[:, 2:]
    assert (low[valid] >= 0).all() and (high[valid] <= np.array(SIZE) - 1).all()
    np.testing.assert_allclose(
        found.scores[valid], np.asarray(features)[valid] @ CAR.weights, rtol=1e-5
    )


def test_image_boxes_are_those_of_the_labels(read):
    frame = read('depth')
    labels = scenes.render_frame(CARS, SIZE).labels
    boxes, is_seen = candidates.project_boxes(jnp.asarray(stack_boxes(labels)), frame.view)
    assert is_seen.all()
    np.testing.assert_allclose(boxes, [label.image_box for label in labels], atol=0.05)
    behind = jnp.asarray(stack_boxes(labels)).at[:, 2].multiply(-1)
    assert not candidates.project_boxes(behind, frame.view)[1].any()


def test_a_frame_without_points_has_no_proposals(read):
    frame = read('lidar')
    empty = frame._replace(valid=jnp.zeros_like(frame.valid))
    best = proposer.propose(empty.make_scene(OPTIONS), CAR, options=OPTIONS)
    assert not best.valid.any()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: ProposalOptions(max_overlap=0.0), 'max_overlap'),
        (lambda: ProposalOptions(num_proposals=0), 'num_proposals'),
        (lambda: ProposalOptions(overlap='both'), "'image' or 'space'"),
        (lambda: GridOptions(voxel_m=0.0), 'voxel_m'),
        (lambda: GridOptions(z_m=(5.0, 5.0)), 'the grid has'),
        (lambda: GridOptions(z_m=(0.0, 1e6)), 'the grid has'),
        (lambda: GridOptions(y_m=(-0.4, 9.0)), 'voxels high'),
        (lambda: GridOptions(enlargement_voxels=40), 'enlargement_voxels'),
    ],
)
def test_options_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
