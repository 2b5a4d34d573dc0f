"""From points and a camera to the ranked boxes of a class."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdl_jax.proposals.candidates import Candidates, View, list_candidates
from pdl_jax.proposals.class_model import ClassModel
from pdl_jax.proposals.ground_plane import Road, find_road
from pdl_jax.proposals.options import ProposalOptions
from pdl_jax.proposals.overlap import image_iou, space_iou
from pdl_jax.proposals.potentials import (
    Integrals,
    extend_integrals,
    height_prior,
    make_integrals,
)
from pdl_jax.proposals.suppression import suppress_overlaps
from pdl_jax.proposals.voxel_grid import VoxelGrid, make_grid, voxel_heights
from pdl_jax.typing import Array


class Scene(NamedTuple):
    """A frame without what depends on the class.

    Attributes:
      road: the plane of the road.
      grid: the voxels.
      view: the camera.
    """

    road: Road
    grid: VoxelGrid
    view: View


@functools.partial(jax.jit, static_argnames=('canvas_size', 'options'))
def make_scene(
    points: Array,
    valid: Array,
    view: View,
    *,
    canvas_size: tuple[int, int],
    options: ProposalOptions,
) -> Scene:
    """Finds the road and sorts the points into voxels.

    Args:
      points: f32[N, 3] in camera coordinates.
      valid: bool[N].
      view: the camera.
      canvas_size: (height, width) in pixels, no smaller than the image; one size for all images of
        a data set compiles once.
      options: see there.
    """
    road = find_road(points, valid, options.road)
    grid = make_grid(
        points, valid, road, view.projection, canvas_size=canvas_size, options=options.grid
    )
    return Scene(road, grid, view)


@functools.partial(jax.jit, static_argnames=('options',))
def propose(scene: Scene, model: ClassModel, *, options: ProposalOptions) -> Candidates:
    """Proposes boxes of a class.

    Args:
      scene: see `make_scene`.
      model: the class.
      options: see there.

    Returns:
      Candidates [num_proposals], the best first.
    """
    candidates = list_candidates(
        extend_integrals(class_integrals(scene.grid, model, options)),
        scene.road,
        model,
        scene.view,
        num_candidates=options.num_candidates,
        height_deviations=options.height_deviations,
        options=options.grid,
    )
    in_image = options.overlap == 'image'
    rows, kept = suppress_overlaps(
        candidates.image_boxes if in_image else candidates.boxes,
        candidates.valid,
        image_iou if in_image else space_iou,
        max_overlap=options.max_overlap,
        num_kept=options.num_proposals,
    )
    best = jax.tree.map(lambda x: x[rows], candidates)
    return best._replace(valid=best.valid & kept)


def class_integrals(grid: VoxelGrid, model: ClassModel, options: ProposalOptions) -> Integrals:
    """Makes the integral images of a class."""
    heights = voxel_heights(options.grid)
    prior = height_prior(
        grid.occupied,
        heights,
        jnp.asarray(model.height_mean_m),
        jnp.asarray(model.height_deviation_m),
    )
    return make_integrals(grid.occupied, grid.free, prior)
