"""Stages of residual units that halt, per image (ACT) or per position (SACT).

In a plain stage every unit runs at every position. Here a score after each unit decides where the
next ones run; positions that have halted keep their features, which their neighbours still read.
The arithmetic is dense: a unit computes every position, and the results of halted ones are dropped.
The positions that a program could skip are counted exactly. At inference a unit is really skipped
if no position of the batch is active.

Source: Figurnov et al., Spatially Adaptive Computation Time for Residual Networks, CVPR 2017.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.models.blocks import Activation, Conv, LayerOptions, UnitFeatures, batch_norm
from pdl_jax.ops.halting import Halting, advance_halting, start_halting
from pdl_jax.ops.platforms import is_portable
from pdl_jax.typing import Array

KINDS = ('', 'act', 'sact')
# The collection of `StageComputation` by the names of stages.
COLLECTION = 'computation'
# Scores begin at sigmoid(-3), 5 %, so that nearly all units run at first.
_FIRST_BIAS = -3.0


class UnitCost(NamedTuple):
    """The multiply-adds of one position in a unit without stride and projection.

    Attributes:
      first: those of its first convolution, which also runs where the rest reads its result.
      rest: those of the other convolutions.
      reach: distance in pixels between the taps of the 3x3 convolution behind the first one.
    """

    first: int
    rest: int
    reach: int = 1


class StageComputation(NamedTuple):
    """The computation of a stage on a batch; [h, w] is [1, 1] if images halt as a whole.

    Attributes:
      ponder: f32[B, h, w], units that have run plus a remainder in (0, 1], see `ops.halting`.
      num_units: i32[B, h, w].
      weights: f32[B, h, w, L], weight of each unit in the output of the stage.
      skipped: i32[B, K], positions of each of K layers that need not be computed.
      multiply_adds: i32[K], those of each layer at one position.
    """

    ponder: Array
    num_units: Array
    weights: Array
    skipped: Array
    multiply_adds: Array


@dataclasses.dataclass(frozen=True)
class HaltingOptions:
    """The rules by which a stage halts.

    Attributes:
      kind: 'act' (per image) or 'sact' (per position).
      activation: that of the BatchNorms before the scores; None for none.
      min_active_share: at inference, an image halts in a stage once a smaller share of its
        positions would go on; 0, as in the original, lets every position decide.
    """

    kind: str
    activation: Activation | None = None
    min_active_share: float = 0.0


def list_stages(collections: Mapping[str, Any]) -> list[StageComputation]:
    """Lists the stages that halt, of the collections that a network returned."""
    return jax.tree.leaves(
        collections.get(COLLECTION, {}), is_leaf=lambda x: isinstance(x, StageComputation)
    )


def ponder_cost(stages: Sequence[StageComputation]) -> Array:
    """Returns the ponder cost f32[]: the sum over stages of the mean over positions and images."""
    return sum((jnp.mean(stage.ponder) for stage in stages), jnp.zeros(()))


class HaltingScore(nn.Module):
    """The halting score of a unit's result.

    Attributes:
      kind: 'act': logistic regression on the mean over the image. 'sact': the same plus a 3x3
        convolution of the position's neighbourhood.
      activation: that of the BatchNorms; None for none.
      options: options of all layers.
    """

    kind: str
    activation: Activation | None = None
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps float[B, h, w, C] to scores f32[B, h, w] in [0, 1]; f32[B, 1, 1] in 'act'."""
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        logits = self._score(mean, 1, 'global', train)
        if self.kind == 'sact':
            logits = logits + self._score(x, 3, 'local', train)
        bias = self.param('bias', nn.initializers.constant(_FIRST_BIAS), (1,), jnp.float32)
        return jax.nn.sigmoid(logits + bias)[..., 0]

    def _score(self, x: Array, kernel_size: int, name: str, train: bool) -> Array:
        x = batch_norm(self.options, train=train, name=f'{name}_norm')(x)
        if self.activation is not None:
            x = self.activation(x)
        conv = Conv(1, kernel_size, options=self.options, name=f'{name}_conv')
        return conv(x).astype(jnp.float32)


def run_adaptive_stage(
    module: nn.Module,
    units: Sequence[Any],
    features: UnitFeatures,
    *,
    name: str,
    halting: HaltingOptions,
    options: LayerOptions,
    train: bool,
) -> UnitFeatures:
    """Runs a stage that halts, as a part of the module being called.

    It writes a `StageComputation` into the collection 'computation'.

    Args:
      module: the module whose children the units are.
      units: map `UnitFeatures.activated` and `train` to `UnitFeatures`, and have a `cost`, a
        `UnitCost`; only the first may stride or change the channels.
      features: what the first unit reads.
      name: the stage's, in the collection and before the names of the scores.
      halting: where it halts.
      options: options of the scores' layers.
      train: whether statistics are updated; every unit runs then.

    Returns:
      The mean of the units' features by their weights.
    """
    # Scores have no statistics of an earlier training that could be kept.
    options = dataclasses.replace(options, is_norm_frozen=False)
    min_active_share = 0.0 if train else halting.min_active_share
    can_skip = not (train or module.is_initializing() or is_portable())
    state: Halting | None = None
    output, weights, work = None, [], []
    for i, unit in enumerate(units):
        score = None
        if i < len(units) - 1:
            score = HaltingScore(
                halting.kind, halting.activation, options, name=f'{name}_halting{i + 1}'
            )
        if state is None:
            features, h = _run_unit(unit, score, features, train=train)
            num_images, height, width, _ = features.activated.shape
            is_whole = halting.kind == 'act'
            state = start_halting((num_images, *((1, 1) if is_whole else (height, width))))
        else:
            active = ~state.is_halted
            work += _list_skipped(unit.cost, score, active, features.activated.shape)
            if can_skip:
                features, h = _run_or_skip(unit, score, features, active)
            else:
                features, h = _run_unit(unit, score, features, active, train=train)
        state, weight = advance_halting(state, h, min_active_share=min_active_share)
        weights.append(weight)
        part = jax.tree.map(lambda x, w=weight: w[..., None] * x, features)
        output = part if output is None else jax.tree.map(jnp.add, output, part)
    assert state is not None and output is not None  # A stage has units.
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        module.put_variable(COLLECTION, name, _describe(state, weights, work))
    return jax.tree.map(lambda mean, x: mean.astype(x.dtype), output, features)


def _run_unit(
    unit: Any,
    score: Callable[..., Any] | None,
    features: UnitFeatures,
    active: Array | None = None,
    *,
    train: bool,
) -> tuple[UnitFeatures, Array]:
    """Runs a unit and its score.

    Args:
      unit: see `run_adaptive_stage`.
      score: a `HaltingScore`; None after the last unit, whose score is 1.
      features: before the unit.
      active: bool[B, h, w], or bool[B, 1, 1] for whole images; the others keep their features.
        None for a first unit.
      train: see `run_adaptive_stage`.

    Returns:
      The features behind the unit and the scores f32[B, h, w] or f32[B, 1, 1].
    """
    result = unit(features.activated, train=train)
    if active is not None:
        result = jax.tree.map(lambda x, y: jnp.where(active[..., None], x, y), result, features)
    if score is None:
        return result, jnp.ones((1, 1, 1), jnp.float32)
    return result, score(result.activated, train=train)


def _run_or_skip(
    unit: Any, score: HaltingScore | None, features: UnitFeatures, active: Array
) -> tuple[UnitFeatures, Array]:
    """Runs a unit at inference, or skips it if no position of the batch is active."""
    # Flax modules must not be called inside of a branch of `lax.cond`, functions of theirs may.
    bound = [None if module is None else module.unbind() for module in (unit, score)]

    def run(features: UnitFeatures) -> tuple[UnitFeatures, Array]:
        run_unit, run_score = (
            None if x is None else functools.partial(x[0].apply, x[1]) for x in bound
        )
        return _run_unit(run_unit, run_score, features, active, train=False)

    def skip(features: UnitFeatures) -> tuple[UnitFeatures, Array]:
        shape = jax.eval_shape(run, features)[1].shape
        return features, jnp.zeros(shape, jnp.float32)

    return lax.cond(jnp.any(active), run, skip, features)


def _list_skipped(
    cost: UnitCost, score: HaltingScore | None, active: Array, shape: tuple[int, ...]
) -> list[tuple[Array, int]]:
    """Lists the skipped positions i32[B] of the layers of a unit, with their multiply-adds.

    Args:
      cost: the unit's.
      score: its score; None for the last unit.
      active: bool[B, h, w], or bool[B, 1, 1] for whole images.
      shape: [B, h, w, C] of its features.
    """
    _, height, width, channels = shape
    is_whole = active.shape[1:] == (1, 1)

    def count(active: Array, num_positions: int) -> Array:
        if is_whole:
            return jnp.where(active[:, 0, 0], 0, num_positions)
        return num_positions - jnp.sum(active, axis=(1, 2), dtype=jnp.int32)

    num_positions = height * width
    rest = cost.rest
    if score is not None and score.kind == 'sact':
        rest += 9 * channels
    layers = [(count(_reach(active, cost.reach), num_positions), cost.first)]
    layers.append((count(active, num_positions), rest))
    if score is not None and score.kind == 'act':
        layers.append((count(active, 1), channels))
    return layers


def _reach(active: Array, reach: int) -> Array:
    """Marks the positions that a 3x3 convolution reads at active ones."""
    if active.shape[1:] == (1, 1):
        return active
    window, padding = (1, 3, 3), ((0, 0), (reach, reach), (reach, reach))
    return lax.reduce_window(
        active, False, lax.bitwise_or, window, (1, 1, 1), padding, window_dilation=(1, reach, reach)
    )


def _describe(
    state: Halting, weights: Sequence[Array], work: Sequence[tuple[Array, int]]
) -> StageComputation:
    skipped = [positions for positions, _ in work]
    no_layer = jnp.zeros((state.ponder.shape[0], 0), jnp.int32)
    return StageComputation(
        ponder=state.ponder,
        num_units=state.num_units,
        weights=jnp.stack(weights, axis=-1),
        skipped=jnp.stack(skipped, axis=-1) if skipped else no_layer,
        multiply_adds=jnp.array([cost for _, cost in work], jnp.int32),
    )
