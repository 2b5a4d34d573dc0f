"""The keypoints that DeeperLab describes an instance by, and the graph that connects them."""

import jax
import jax.numpy as jnp

from pdl_jax.ops.sampling import sample_bilinear
from pdl_jax.typing import Array

# The corners of the bounding box and the centre of mass, in the order of all maps.
KEYPOINTS = ('top_left', 'top_right', 'bottom_left', 'bottom_right', 'center')
NUM_KEYPOINTS = len(KEYPOINTS)
CENTER = KEYPOINTS.index('center')
# A star: from every corner to the centre, then from the centre to every corner.
EDGES = (
    *((corner, CENTER) for corner in range(CENTER)),
    *((CENTER, corner) for corner in range(CENTER)),
)
# The keypoint and the edge that takes the place of each in the mirror image.
MIRRORED_KEYPOINTS = (1, 0, 3, 2, CENTER)
MIRRORED_EDGES = tuple(
    EDGES.index((MIRRORED_KEYPOINTS[start], MIRRORED_KEYPOINTS[end])) for start, end in EDGES
)


def pixel_positions(size: tuple[int, int]) -> Array:
    """Returns f32[H, W, 2], the (y, x) of every pixel."""
    axes = (jnp.arange(n, dtype=jnp.float32) for n in size)
    return jnp.stack(jnp.meshgrid(*axes, indexing='ij'), axis=-1)


def sample_at(maps: Array, positions: Array) -> Array:
    """Samples each of several maps at positions of its own, bilinearly.

    Args:
      maps: f32[H, W, K, D].
      positions: f32[..., K, 2], (y, x) in pixels.

    Returns:
      f32[..., K, D], 0 outside of the maps.
    """
    height, width, count, _ = maps.shape
    size = jnp.array([height, width], jnp.int32)
    points = positions.reshape(-1, count, 2)

    def sample(image: Array, points: Array) -> Array:
        rows, columns = points[:, None, 0], points[:, None, 1]
        return sample_bilinear(image, rows, columns, size, fill=0.0)[:, 0]

    sampled = jax.vmap(sample, in_axes=(2, 1), out_axes=1)(maps, points)
    return sampled.reshape(*positions.shape[:-1], maps.shape[-1])


def refine_positions(positions: Array, short: Array, num_steps: int) -> Array:
    """Moves predicted keypoints along the short-range offsets that they meet.

    Args:
      positions: f32[..., K, 2], (y, x) in pixels of a keypoint of each kind.
      short: f32[H, W, K, 2], (dy, dx) in pixels from a pixel to the keypoint near it.
      num_steps: repetitions.

    Returns:
      f32[..., K, 2].

    Source: Papandreou et al., PersonLab, ECCV 2018, section 3.2.
    """
    for _ in range(num_steps):
        positions = positions + sample_at(short, positions)
    return positions
