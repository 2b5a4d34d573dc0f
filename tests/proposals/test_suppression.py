"""Greedy suppression against a plain loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.proposals.overlap import image_iou, space_iou
from pdl_jax.proposals.suppression import suppress_overlaps


@functools.partial(jax.jit, static_argnames=('num_kept',))
def suppress(boxes, valid, num_kept):
    return suppress_overlaps(boxes, valid, image_iou, max_overlap=0.5, num_kept=num_kept)


@pytest.mark.parametrize('num_kept', [10, 200])
def test_it_keeps_what_a_loop_keeps(num_kept):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 9, (200, 2))], axis=1).astype(np.float32)
    valid = rng.random(200) < 0.8
    # A box without an area overlaps nothing, not even itself.
    boxes[3], valid[3] = [1, 1, 1, 5], True
    iou = np.asarray(image_iou(jnp.asarray(boxes)[:, None], jnp.asarray(boxes)))
    wanted = []
    for row in np.flatnonzero(valid):
        if all(iou[row, better] <= 0.5 for better in wanted) and len(wanted) < num_kept:
            wanted.append(row)
    rows, kept = suppress(jnp.asarray(boxes), jnp.asarray(valid), num_kept)
    assert rows.shape == kept.shape == (num_kept,)
    np.testing.assert_array_equal(np.asarray(rows)[np.asarray(kept)], wanted)


def test_boxes_in_space_are_suppressed_too():
    box = [0.0, 1.6, 10.0, 4.0, 1.5, 1.6, 0.0]
    near, turned, far = ([*box[:2], 10.2, *box[3:]], [*box[:6], 1.57], [*box[:2], 20.0, *box[3:]])
    rows, kept = suppress_overlaps(
        jnp.array([box, near, turned, far]),
        jnp.ones(4, bool),
        space_iou,
        max_overlap=0.5,
        num_kept=4,
    )
    np.testing.assert_array_equal(np.asarray(rows)[np.asarray(kept)], [0, 2, 3])


def test_nothing_is_kept_of_nothing():
    _, kept = suppress(jnp.zeros((200, 4)), jnp.zeros(200, bool), 10)
    assert not kept.any()
