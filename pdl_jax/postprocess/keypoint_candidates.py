"""Keypoints from heat maps and offsets: votes, peaks, and the other keypoints beside them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.keypoints import (
    CENTER,
    NUM_KEYPOINTS,
    refine_positions,
    sample_at,
)
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.typing import Array

# A peak is the maximum of its neighbours.
_PEAK_WINDOW_PX = 3


class Candidates(NamedTuple):
    """Keypoints that may begin an instance, the likeliest first.

    Attributes:
      position: f32[Q, 2], (y, x) in pixels.
      kind: i32[Q], the number of a keypoint of `ops.keypoints`.
      score: f32[Q], votes.
      valid: bool[Q], true rows first.
    """

    position: Array
    kind: Array
    score: Array
    valid: Array


def vote_keypoints(heatmap: Array, short: Array, *, radius_px: float) -> Array:
    """Lets every pixel vote for the keypoints that it points to (Hough voting).

    A vote weighs the pixel's heat, is shared bilinearly by the four pixels around its goal, and is
    dropped outside of the map. It is a scatter on every platform, slow on a TPU.

    Args:
      heatmap: f32[H, W, K] in [0, 1].
      short: f32[H, W, K, 2], (dy, dx) in pixels.
      radius_px: radius of the discs that the heat map was trained with; votes are divided by their
        area.

    Returns:
      f32[H, W, K], 1 at a keypoint whose whole disc agrees.

    Source: Papandreou et al., PersonLab, ECCV 2018, section 3.1.
    """
    height, width, count = heatmap.shape
    # Offsets out of the map would overflow integers if they were large enough.
    limit = jnp.array([height, width], jnp.float32) + 1
    short = jnp.clip(short, -limit, limit)
    # Split offsets, not positions, whose fractions have fewer bits.
    low = jnp.floor(short)
    fraction = short - low
    y = low[..., 0].astype(jnp.int32) + jnp.arange(height)[:, None, None]
    x = low[..., 1].astype(jnp.int32) + jnp.arange(width)[:, None]
    # The last entry takes what falls outside: formats of other programs do not drop it themselves.
    votes = jnp.zeros(heatmap.size + 1, jnp.float32)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share_y = fraction[..., 0] if dy else 1 - fraction[..., 0]
        share_x = fraction[..., 1] if dx else 1 - fraction[..., 1]
        is_inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        index = ((y + dy) * width + x + dx) * count + jnp.arange(count)
        index = jnp.where(is_inside, index, heatmap.size)
        shares = heatmap * share_y * share_x
        votes = votes.at[index.reshape(-1)].add(
            shares.reshape(-1), mode='promise_in_bounds', wrap_negative_indices=False
        )
    return votes[:-1].reshape(heatmap.shape) / (math.pi * radius_px**2)


def find_candidates(
    votes: Array, short: Array, *, threshold: float, max_candidates: int
) -> Candidates:
    """Finds the peaks of the votes for every kind of keypoint, in one queue.

    Args:
      votes: f32[H, W, K].
      short: f32[H, W, K, 2], (dy, dx) in pixels; moves a peak between pixels.
      threshold: a peak must be strictly higher.
      max_candidates: peaks of each kind that are kept, the highest; the queue has K times as many
        rows.
    """

    def find(votes: Array) -> tuple[Array, Array, Array]:
        return find_centers(
            votes, threshold=threshold, kernel_px=_PEAK_WINDOW_PX, max_centers=max_candidates
        )

    peaks, scores, valid = jax.vmap(find, in_axes=2)(votes)
    peaks = jnp.moveaxis(refine_positions(jnp.moveaxis(peaks, 0, 1), short, 1), 1, 0)
    kind = jnp.broadcast_to(jnp.arange(NUM_KEYPOINTS)[:, None], valid.shape)
    # Invalid rows last; equal scores in the order of kinds, then in raster order.
    order = jnp.where(valid, -scores, jnp.inf).reshape(-1)
    place = lax.iota(jnp.int32, order.shape[0])
    _, place = lax.sort((order, place), num_keys=1, is_stable=True)
    return Candidates(
        peaks.reshape(-1, 2)[place],
        kind.reshape(-1)[place],
        scores.reshape(-1)[place],
        valid.reshape(-1)[place],
    )


def complete_candidates(
    candidates: Candidates, short: Array, middle: Array, *, num_refinements: int
) -> Array:
    """Follows the middle-range offsets from candidates to the other keypoints of their instances.

    From a corner the way leads over the centre. Every keypoint that is met is refined.

    Args:
      candidates: keypoints to start from.
      short: f32[H, W, K, 2], (dy, dx) in pixels.
      middle: f32[H, W, E, 2], by the edges of `ops.keypoints`.
      num_refinements: steps of `ops.keypoints.refine_positions`.

    Returns:
      f32[Q, K, 2], (y, x) in pixels, the keypoints of the instance of each candidate.
    """
    num_edges = middle.shape[2]

    def follow(position: Array) -> Array:
        """Maps f32[Q, 2] to the ends of all edges, f32[Q, E, 2]."""
        starts = jnp.broadcast_to(position[:, None], (position.shape[0], num_edges, 2))
        return starts + sample_at(middle, starts)

    position, kind = candidates.position, candidates.kind
    to_center, from_center = slice(0, CENTER), slice(CENTER, num_edges)
    is_start = kind[:, None] == jnp.arange(NUM_KEYPOINTS)
    ends = follow(position)[:, to_center]
    center = jnp.sum(jnp.where(is_start[:, to_center, None], ends, 0), axis=1)
    center = refine_positions(center[:, None], short[:, :, CENTER:], num_refinements)[:, 0]
    center = jnp.where(is_start[:, CENTER, None], position, center)
    corners = follow(center)[:, from_center]
    corners = refine_positions(corners, short[:, :, :CENTER], num_refinements)
    keypoints = jnp.concatenate([corners, center[:, None]], axis=1)
    return jnp.where(is_start[..., None], position[:, None], keypoints)
