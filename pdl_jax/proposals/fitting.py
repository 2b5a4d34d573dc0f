"""Learning classes from labelled frames: templates, heights and weights."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.ops.integral_image import sum_boxes
from pdl_jax.proposals.candidates import Candidates, list_candidates, snap_boxes
from pdl_jax.proposals.class_model import DEFAULT_MODELS, ClassModel
from pdl_jax.proposals.frames import Frame
from pdl_jax.proposals.ground_plane import to_road
from pdl_jax.proposals.kitti_label import ObjectLabel, stack_boxes
from pdl_jax.proposals.learning import Examples, SvmFit, cluster_sizes, fit_weights
from pdl_jax.proposals.options import ProposalOptions
from pdl_jax.proposals.overlap import space_iou
from pdl_jax.proposals.potentials import (
    Integrals,
    extend_integrals,
    make_features,
    sum_potentials,
)
from pdl_jax.proposals.proposer import Scene, class_integrals
from pdl_jax.proposals.voxel_grid import voxel_heights
from pdl_jax.runtime.progress import show_items
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
    regularization: float = 100.0


class LabelledFrame(NamedTuple):
    """A frame that is read when it is needed, since a data set does not fit into memory.

    Attributes:
      read: reads it.
      labels: its objects.
    """

    read: Callable[[], Frame]
    labels: Sequence[ObjectLabel]


def fit_classes(
    frames: Sequence[LabelledFrame],
    kinds: Sequence[str],
    options: ProposalOptions,
    fit: FitOptions,
) -> dict[str, tuple[ClassModel, SvmFit]]:
    """Learns classes.

    Args:
      frames: labelled frames.
      kinds: the classes.
      options: those of the program that will use them.
      fit: settings.

    Returns:
      Models by class, and how their weights were found.

    Raises:
      ValueError: there is no object of a class that lies in the grid and has points.
    """
    used = [frame for frame in frames if any(label.kind in kinds for label in frame.labels)]
    models = _measure_classes(used, kinds, options, fit)
    results = {}
    for _ in range(_NUM_ROUNDS):
        parts: dict[str, list[Examples]] = {kind: [] for kind in kinds}
        for seed, frame in enumerate(show_items(used, 'fitting weights')):
            scene = frame.read().make_scene(options)
            for kind, boxes in _list_boxes(frame, kinds):
                rng = jax.random.key(seed)
                parts[kind].append(_make_examples(scene, *_pad(boxes), models[kind], rng, options))
        for kind, rows in parts.items():
            examples = Examples(*(jnp.stack(arrays) for arrays in zip(*rows, strict=True)))
            results[kind] = fit_weights(examples, regularization=fit.regularization)
            models[kind] = models[kind]._replace(weights=np.asarray(results[kind].weights))
    return {kind: (models[kind], results[kind]) for kind in kinds}


def _list_boxes(frame: LabelledFrame, kinds: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Lists the boxes f32[N, 7] of the classes that occur in a frame."""
    objects = {kind: [o for o in frame.labels if o.kind == kind] for kind in kinds}
    return [(kind, stack_boxes(found)) for kind, found in objects.items() if found]


def _pad(boxes: np.ndarray) -> tuple[Array, Array]:
    """Pads f32[N, 7] to the largest number of objects; bool, which of them are objects."""
    boxes = boxes[:_MAX_OBJECTS]
    count = len(boxes)
    padded = np.pad(boxes, [(0, _MAX_OBJECTS - count), (0, 0)])
    return jnp.asarray(padded), jnp.arange(_MAX_OBJECTS) < count


class _Measures(NamedTuple):
    """Sizes of a class, heights of bottoms, and occupied voxels by row of the grid; by frame."""

    sizes_m: list[np.ndarray]
    bottoms_m: list[np.ndarray]
    counts: list[np.ndarray]


def _measure_classes(
    frames: Sequence[LabelledFrame],
    kinds: Sequence[str],
    options: ProposalOptions,
    fit: FitOptions,
) -> dict[str, ClassModel]:
    """Measures templates, heights and bottoms of classes; weights are those of the defaults."""
    measures = {kind: _Measures([], [], []) for kind in kinds}
    for frame in show_items(frames, 'measuring objects'):
        scene = frame.read().make_scene(options)
        for kind, boxes in _list_boxes(frame, kinds):
            counts, bottoms, is_inside = _measure_frame(scene, *_pad(boxes), options)
            measures[kind].counts.append(np.asarray(counts, np.float64))
            measures[kind].bottoms_m.append(np.asarray(bottoms)[np.asarray(is_inside)])
            measures[kind].sizes_m.append(boxes[:, 3:6])
    for kind, found in measures.items():
        if not found.sizes_m:
            raise ValueError(
                f'there is no object of the class {kind} in the labels: give frames that have '
                f'some, or other --classes'
            )
        if not np.sum(found.counts):
            raise ValueError(
                f'no object of the class {kind} lies in the grid and has points: check the '
                f'calibration and --source'
            )
    return {kind: _make_model(found, options, fit) for kind, found in measures.items()}


def _make_model(found: _Measures, options: ProposalOptions, fit: FitOptions) -> ClassModel:
    counts = np.sum(found.counts, axis=0)
    heights = np.asarray(voxel_heights(options.grid), np.float64)
    mean = (counts @ heights) / counts.sum()
    deviation = np.sqrt(counts @ (heights - mean) ** 2 / counts.sum())
    sizes = np.concatenate(found.sizes_m).clip(0, options.grid.max_side_m)
    templates = cluster_sizes(jnp.asarray(sizes), num_templates=fit.num_templates)
    # The deviation is one from the road, not from the mean: candidates stand on the road.
    bottom = np.sqrt(np.mean(np.concatenate(found.bottoms_m).astype(np.float64) ** 2))
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
    counts = sum_boxes(scene.occupied_sums, slabs.reshape(-1, 6)).reshape(low.shape)
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
    integrals = class_integrals(scene, model, options.grid)
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
    targets, is_inside = _find_targets(integrals, scene, boxes, model, options)
    return Examples(candidates.features, losses, candidates.valid, targets, is_inside & is_object)


def _find_targets(
    integrals: Integrals, scene: Scene, boxes: Array, model: ClassModel, options: ProposalOptions
) -> tuple[Array, Array]:
    """Finds the features of objects, f32[N, 4], and which of them lie in the grid.

    LIDAR sees the faces of an object, which lie on the border of its box, and rounding to voxels
    puts them inside or outside by chance. An object's box is therefore the one of the highest score
    among those at most a voxel away, as in a latent SVM.
    """
    places, is_inside = snap_boxes(boxes, scene.road, options.grid)
    steps = jnp.array([(x, 0, z) for x in (0, -1, 1) for z in (0, -1, 1)])
    moved = places[:, None] + jnp.tile(steps, 2)
    size = jnp.array(options.grid.shape * 2)
    is_whole = ((moved >= 0) & (moved <= size)).all(axis=-1)
    sums = sum_potentials(
        integrals,
        jnp.clip(moved, 0, size).reshape(-1, 6),
        enlargement=options.grid.enlargement_voxels,
    )
    features = make_features(sums).reshape(*is_whole.shape, -1)
    best = jnp.argmax(jnp.where(is_whole, features @ model.weights, -jnp.inf), axis=1)
    return jnp.take_along_axis(features, best[:, None, None], axis=1)[:, 0], is_inside
