"""From points and a camera to the ranked boxes of a class."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdl_jax.ops.integral_image import integrate, integrate_fractions
from pdl_jax.proposals.candidates import Candidates, View, list_candidates
from pdl_jax.proposals.class_model import ClassModel
from pdl_jax.proposals.ground_plane import Road, find_road
from pdl_jax.proposals.options import GridOptions, ProposalOptions
from pdl_jax.proposals.overlap import image_iou, space_iou
from pdl_jax.proposals.potentials import (
    Integrals,
    extend_integrals,
    height_prior,
)
from pdl_jax.proposals.suppression import suppress_overlaps
from pdl_jax.proposals.voxel_grid import make_grid, voxel_heights
from pdl_jax.typing import Array


class Scene(NamedTuple):
    """A frame without what depends on the class.

    Attributes:
      road: the plane of the road.
      occupied: bool[X, Y, Z], see `voxel_grid.VoxelGrid`.
      occupied_sums, blocked_sums: i32[X + 1, Y + 1, Z + 1], integral images of P and 1 - F.
      view: the camera.
    """

    road: Road
    occupied: Array
    occupied_sums: Array
    blocked_sums: Array
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
    return Scene(road, grid.occupied, integrate(grid.occupied), integrate(~grid.free), view)


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
        extend_integrals(class_integrals(scene, model, options.grid)),
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


def class_integrals(scene: Scene, model: ClassModel, options: GridOptions) -> Integrals:
    """Makes the integral images of a class."""
    heights = voxel_heights(options)
    prior = height_prior(
        scene.occupied,
        heights,
        jnp.asarray(model.height_mean_m),
        jnp.asarray(model.height_deviation_m),
    )
    return Integrals(scene.occupied_sums, scene.blocked_sums, integrate_fractions(prior))
