"""Instances from candidates for keypoints, and the assignment of pixels to them."""

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.batching import max_of_batch
from pdl_jax.ops.keypoints import CENTER, pixel_positions, sample_at
from pdl_jax.postprocess.keypoint_candidates import Candidates
from pdl_jax.typing import Array


def group_candidates(
    candidates: Candidates, keypoints: Array, *, radius_px: float, max_instances: int
) -> tuple[Array, Array]:
    """Takes candidates in their order, each as a new instance unless its keypoint is known.

    Args:
      candidates: Q of them, the likeliest first.
      keypoints: f32[Q, K, 2], (y, x) in pixels, the keypoints of each candidate's instance.
      radius_px: a candidate within this distance of the same keypoint of an instance belongs to it.
      max_instances: number of rows M; later instances are dropped.

    Returns:
      keypoints: f32[M, K, 2], (y, x) in pixels; 0 in invalid rows.
      valid: bool[M], true rows first.

    Source: Papandreou et al., PersonLab, ECCV 2018, section 3.2.
    """
    rows = jnp.arange(max_instances)

    def take(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        instances, count = state
        # A sum of one: ONNX cannot cut a slice out of each image at a place of its own.
        is_kind = jnp.arange(keypoints.shape[1]) == candidates.kind[number]
        same = jnp.sum(jnp.where(is_kind[:, None], instances, 0), axis=1)
        difference = same - candidates.position[number]
        is_near = (jnp.sum(difference**2, axis=-1) <= radius_px**2) & (rows < count)
        is_new = candidates.valid[number] & ~jnp.any(is_near) & (count < max_instances)
        is_row = (is_new & (rows == count))[:, None, None]
        return jnp.where(is_row, keypoints[number], instances), count + is_new.astype(jnp.int32)

    state = jnp.zeros((max_instances, *keypoints.shape[1:]), jnp.float32), jnp.int32(0)
    num_valid = max_of_batch(jnp.sum(candidates.valid, dtype=jnp.int32))
    instances, count = lax.fori_loop(0, num_valid, take, state)
    return instances, rows < count


def score_instances(keypoints: Array, heatmap: Array) -> Array:
    """Averages the heat at the keypoints of instances.

    Args:
      keypoints: f32[M, K, 2], (y, x) in pixels.
      heatmap: f32[H, W, K] in [0, 1].

    Returns:
      f32[M] in [0, 1].
    """
    return jnp.mean(sample_at(heatmap[..., None], keypoints)[..., 0], axis=-1)


def assign_pixels(keypoints: Array, valid: Array, votes: Array) -> Array:
    """Assigns every pixel to the instance whose keypoints it points to best.

    Args:
      keypoints: f32[M, K, 2], (y, x) in pixels; ignored where `valid` is false.
      valid: bool[M], true rows first.
      votes: f32[H, W, K, 2], the (y, x) in pixels where a pixel supposes its instance's keypoints.

    Returns:
      i32[H, W], the 1-based row of the instance with the smallest `measure_distance`, the lower row
      on ties; 0 where there is none.
    """

    def compare(row: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, instance = state
        distance = measure_distance(keypoints[row], votes)
        is_nearer = valid[row] & (distance < nearest)
        return jnp.where(is_nearer, distance, nearest), jnp.where(is_nearer, row + 1, instance)

    # Derived from the votes instead of constants, so that the loop state is sharded like the maps.
    nearest = jnp.full_like(votes[..., 0, 0], jnp.inf)
    instance = jnp.zeros_like(nearest, dtype=jnp.int32)
    num_valid = max_of_batch(jnp.sum(valid, dtype=jnp.int32))
    return lax.fori_loop(0, num_valid, compare, (nearest, instance))[1]


def measure_distance(keypoints: Array, votes: Array) -> Array:
    """Measures how far pixels point beside an instance's keypoints, relative to its size.

    Args:
      keypoints: f32[K, 2], (y, x) in pixels.
      votes: f32[H, W, K, 2], see `assign_pixels`.

    Returns:
      f32[H, W], the mean distance over the keypoints, divided by the square root of the area of the
      box around the corners, both ends inclusive.

    Source: Yang et al., DeeperLab, arXiv 1902.05093, section 3.3.
    """
    corners = keypoints[:CENTER]
    sides = jnp.max(corners, axis=0) - jnp.min(corners, axis=0) + 1
    # Kinds one by one: a reduction over a short last axis is slow on CPU.
    total = jnp.zeros(votes.shape[:2], jnp.float32)
    for kind in range(keypoints.shape[0]):
        difference = votes[:, :, kind] - keypoints[kind]
        total = total + jnp.sqrt(difference[..., 0] ** 2 + difference[..., 1] ** 2)
    return total / (keypoints.shape[0] * jnp.sqrt(sides[0] * sides[1]))


def point_from_pixels(offsets: Array) -> Array:
    """Adds the positions of pixels to offsets f32[H, W, K, 2]."""
    return pixel_positions((offsets.shape[0], offsets.shape[1]))[:, :, None] + offsets
