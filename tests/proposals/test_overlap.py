"""IoU of boxes against polygons clipped one half-plane at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.proposals import overlap

space_iou, box_corners = jax.jit(overlap.space_iou), jax.jit(overlap.box_corners)


def clip_polygon(polygon, start, end):
    """Keeps the part of a polygon to the left of a line."""

    def side(point):
        return np.cross(end - start, point - start)

    kept = []
    for one, two in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        a, b = side(one), side(two)
        if a >= 0:
            kept.append(one)
        if a * b < 0:
            kept.append(one + (two - one) * a / (a - b))
    return kept


def find_area(polygon):
    return sum(np.cross(a, b) for a, b in zip(polygon, [*polygon[1:], polygon[0]], strict=True)) / 2


def iou_by_hand(box, other):
    shapes = [
        np.asarray(box_corners(jnp.asarray(b, jnp.float32)))[:4][:, [0, 2]] for b in (box, other)
    ]
    # Corners run clockwise or not, depending on the axes.
    shapes = [list(s if find_area(list(s)) > 0 else s[::-1]) for s in shapes]
    shared = shapes[0]
    for start, end in zip(shapes[1], [*shapes[1][1:], shapes[1][0]], strict=True):
        shared = clip_polygon(shared, start, end) if len(shared) else []
    area = find_area(shared) if len(shared) else 0
    height = min(box[1], other[1]) - max(box[1] - box[4], other[1] - other[4])
    volume = area * max(height, 0)
    return volume / (np.prod(box[3:6]) + np.prod(other[3:6]) - volume)


def test_iou_in_space_is_that_of_clipped_polygons():
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [rng.normal(0, 0.7, (2, 200, 3)), rng.uniform(0.5, 4, (2, 200, 3)),
         rng.uniform(-4, 4, (2, 200, 1))], axis=2
    )  # fmt: skip
    found = np.asarray(space_iou(*jnp.asarray(boxes, jnp.float32)))
    wanted = [iou_by_hand(*pair) for pair in boxes.swapaxes(0, 1)]
    assert np.mean(np.array(wanted) > 0.05) > 0.5
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_known_overlaps():
    box = [1.0, 2.0, 10.0, 4.0, 1.5, 2.0, 0.3]
    square = [0.0, 0.0, 0.0, 2.0, 1.0, 2.0, 0.0]
    turned = [*square[:6], math.pi / 4]
    # The same box with its length and width swapped.
    swapped = [*box[:3], box[5], box[4], box[3], box[6] + math.pi / 2]
    far = [9.0, *box[1:]]
    pairs = jnp.array([[box, box], [box, swapped], [box, far], [square, turned]])
    octagon = 8 * (math.sqrt(2) - 1)
    wanted = [1, 1, 0, octagon / (8 - octagon)]
    np.testing.assert_allclose(space_iou(pairs[:, 0], pairs[:, 1]), wanted, atol=1e-5)


def test_corners_are_those_of_kitti():
    box = jnp.array([5.0, 1.6, 20.0, 4.0, 1.5, 1.8, -math.pi / 2])
    corners = np.asarray(box_corners(box))
    assert corners.shape == (8, 3)
    # A car that drives ahead is long along z; its bottom lies at y, its top above, at smaller y.
    np.testing.assert_allclose(np.ptp(corners, axis=0), [1.8, 1.5, 4.0], atol=1e-5)
    np.testing.assert_allclose(corners[:4, 1], 1.6)
    front = np.asarray(box_corners(box.at[6].set(-math.pi / 2 + 0.1)))[:2].mean(axis=0)
    # Positive angles turn from x towards -z.
    np.testing.assert_allclose(
        front, [5 + 2 * math.sin(0.1), 1.6, 20 + 2 * math.cos(0.1)], atol=1e-5
    )


def test_iou_in_the_image():
    boxes = jnp.array([[0.0, 0.0, 2.0, 4.0], [1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 9.0]])
    found = np.asarray(overlap.image_iou(boxes[:, None], boxes))
    np.testing.assert_allclose(found, [[1, 2 / 14, 0], [2 / 14, 1, 0], [0, 0, 0]], atol=1e-6)
