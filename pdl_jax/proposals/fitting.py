"""Learning a class from labelled frames: templates, heights and weights."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.ops.integral_image import integrate, sum_boxes
from pdl_jax.proposals.candidates import Candidates, list_candidates, snap_boxes
from pdl_jax.proposals.class_model import DEFAULT_MODELS, ClassModel
from pdl_jax.proposals.frames import Frame
from pdl_jax.proposals.ground_plane import to_road
from pdl_jax.proposals.kitti_label import ObjectLabel, stack_boxes
from pdl_jax.proposals.learning import Examples, SvmFit, cluster_sizes, fit_weights
from pdl_jax.proposals.options import ProposalOptions
from pdl_jax.proposals.overlap import space_iou
from pdl_jax.proposals.potentials import extend_integrals, make_features, sum_potentials
from pdl_jax.proposals.proposer import Scene, class_integrals
from pdl_jax.proposals.voxel_grid import voxel_heights
from pdl_jax.typing import Array

# Candidates per frame that are drawn at random, and as many of the best ones in each round.
_NUM_CANDIDATES = 2048
_NUM_ROUNDS = 3
# Frames with more objects of a class count the first ones.
_MAX_OBJECTS = 32
# A deviation cannot be known better than half a voxel, whatever few objects say.
_MIN_DEVIATION_M = 0.05


class FitOptions(NamedTuple):
    """Settings of a fit.

    Attributes:
      num_templates: sizes of boxes.
      regularization: C of the SVM.
    """

    num_templates: int = 3
    regularization: float = 10.0


class LabelledFrame(NamedTuple):
    """A frame that is read when it is needed, since a data set does not fit into memory.

    Attributes:
      read: reads it.
      labels: its objects.
    """

    read: Callable[[], Frame]
    labels: Sequence[ObjectLabel]


def fit_class(
    frames: Sequence[LabelledFrame], kind: str, options: ProposalOptions, fit: FitOptions
) -> tuple[ClassModel, SvmFit]:
    """Learns a class.

    Args:
      frames: labelled frames; those without the class are left out.
      kind: the class.
      options: those of the program that will use it.
      fit: settings.

    Returns:
      The model and how its weights were found.

    Raises:
      ValueError: there is no object of the class that lies in the grid and has points.
    """
    chosen = [(frame, [o for o in frame.labels if o.kind == kind]) for frame in frames]
    chosen = [(frame.read, stack_boxes(objects)) for frame, objects in chosen if objects]
    if not chosen:
        raise ValueError(
            f'there is no object of the class {kind} in the labels of {len(frames)} frames: give '
            f'frames that have some, or other classes'
        )
    model = _measure_class(chosen, options, fit)
    if model is None:
        raise ValueError(
            f'no object of the class {kind} lies in the grid and has points: check the calibration '
            f'and --source'
        )
    result = None
    for _ in range(_NUM_ROUNDS):
        parts = [
            _make_examples(
                read().make_scene(options), *_pad(boxes), model, jax.random.key(seed), options
            )
            for seed, (read, boxes) in enumerate(chosen)
        ]
        examples = Examples(*(jnp.stack(arrays) for arrays in zip(*parts, strict=True)))
        result = fit_weights(examples, regularization=fit.regularization)
        model = model._replace(weights=np.asarray(result.weights))
    assert result is not None
    return model, result


def _pad(boxes: np.ndarray) -> tuple[Array, Array]:
    """Pads f32[N, 7] to the largest number of objects; bool, which of them are objects."""
    boxes = boxes[:_MAX_OBJECTS]
    count = len(boxes)
    padded = np.pad(boxes, [(0, _MAX_OBJECTS - count), (0, 0)])
    return jnp.asarray(padded), jnp.arange(_MAX_OBJECTS) < count


def _measure_class(
    chosen: Sequence[tuple[Callable[[], Frame], np.ndarray]],
    options: ProposalOptions,
    fit: FitOptions,
) -> ClassModel | None:
    """Measures sizes, heights of occupied voxels and bottoms; None if no object has a voxel."""
    counts, bottoms = np.zeros(options.grid.shape[1]), []
    for read, boxes in chosen:
        rows, heights, is_inside = _measure_frame(read().make_scene(options), *_pad(boxes), options)
        counts += np.asarray(rows, np.float64)
        bottoms.append(np.asarray(heights)[np.asarray(is_inside)])
    if not counts.sum():
        return None
    heights = np.asarray(voxel_heights(options.grid), np.float64)
    mean = (counts @ heights) / counts.sum()
    deviation = np.sqrt(counts @ (heights - mean) ** 2 / counts.sum())
    sizes = np.concatenate([boxes[:, 3:6] for _, boxes in chosen])
    longest = options.grid.max_side_m
    templates = cluster_sizes(jnp.asarray(sizes.clip(0, longest)), num_templates=fit.num_templates)
    # The deviation is one from the road, not from the mean: candidates stand on the road.
    bottom = np.sqrt(np.mean(np.concatenate(bottoms).astype(np.float64) ** 2))
    return ClassModel(
        # Clusters of few objects may coincide.
        np.unique(np.asarray(templates).round(4), axis=0),
        np.asarray(mean, np.float32),
        np.asarray(max(deviation, _MIN_DEVIATION_M), np.float32),
        np.asarray(bottom, np.float32),
        DEFAULT_MODELS['Car'].weights,
    )


@functools.partial(jax.jit, static_argnames=('options',))
def _measure_frame(
    scene: Scene, boxes: Array, is_object: Array, options: ProposalOptions
) -> tuple[Array, Array, Array]:
    """Counts the occupied voxels of objects by row of the grid.

    Returns:
      i32[Y]; f32[N], heights of bottoms above the road in metres; bool[N], which boxes are objects
      in the grid.
    """
    places, is_inside = snap_boxes(boxes, scene.road, options.grid)
    is_inside &= is_object
    rows = jnp.arange(options.grid.shape[1])
    low, high = (jnp.clip(rows[:, None] + end, places[:, 1], places[:, 4]) for end in (0, 1))
    slabs = jnp.broadcast_to(places, (*low.shape, 6)).at[..., 1].set(low).at[..., 4].set(high)
    counts = sum_boxes(integrate(scene.grid.occupied), slabs.reshape(-1, 6)).reshape(low.shape)
    bottoms = to_road(boxes[:, :3], scene.road)[:, 1]
    return jnp.where(is_inside, counts, 0).sum(axis=1), bottoms, is_inside


@functools.partial(jax.jit, static_argnames=('options',))
def _make_examples(
    scene: Scene,
    boxes: Array,
    is_object: Array,
    model: ClassModel,
    rng: Array,
    options: ProposalOptions,
) -> Examples:
    """Makes the examples of one frame: candidates at random and the best ones, and its objects."""
    integrals = class_integrals(scene.grid, model, options)
    extended = extend_integrals(integrals)
    parts = [
        list_candidates(
            extended,
            scene.road,
            model,
            scene.view,
            num_candidates=_NUM_CANDIDATES,
            height_deviations=options.height_deviations,
            options=options.grid,
            rng=key,
        )
        for key in (rng, None)
    ]
    candidates = Candidates(*(jnp.concatenate(pair) for pair in zip(*parts, strict=True)))
    overlap = space_iou(candidates.boxes[:, None], boxes)
    losses = 1 - jnp.where(is_object, overlap, 0).max(axis=1)
    places, is_inside = snap_boxes(boxes, scene.road, options.grid)
    targets = make_features(
        sum_potentials(integrals, places, enlargement=options.grid.enlargement_voxels)
    )
    return Examples(candidates.features, losses, candidates.valid, targets, is_inside & is_object)
