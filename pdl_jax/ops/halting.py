"""The halting recurrence of adaptive computation time, at every position by itself.

A stack of units x^1, ..., x^L and halting scores h^1, ..., h^(L-1) in [0, 1] become one output: the
units run until their scores add up to nearly 1, and the output is the mean of their results with
the scores as weights, where the last unit that runs takes the remainder.

Source: Graves, Adaptive Computation Time, 2016; Figurnov et al., Spatially Adaptive Computation
Time for Residual Networks, CVPR 2017, section 3.
"""

from typing import NamedTuple

import jax.numpy as jnp

from pdl_jax.typing import Array

# A position halts when its scores reach 1 - EPSILON, so that one unit may be enough.
EPSILON = 0.01


class Halting(NamedTuple):
    """The state of each position between two units.

    Attributes:
      total: f32[...], sum of the scores so far.
      remainder: f32[...], 1 minus the scores of the units that have run without halting.
      ponder: f32[...], the ponder cost so far: units that have run, plus the remainder at the end;
        a bound of the number of units that can be differentiated.
      is_halted: bool[...].
      num_units: i32[...], units that have run; has no gradient.
    """

    total: Array
    remainder: Array
    ponder: Array
    is_halted: Array
    num_units: Array


def start_halting(shape: tuple[int, ...]) -> Halting:
    """Returns the state of positions before the first unit."""
    return Halting(
        total=jnp.zeros(shape, jnp.float32),
        remainder=jnp.ones(shape, jnp.float32),
        # The unit that halts adds its remainder only, so count it here.
        ponder=jnp.ones(shape, jnp.float32),
        is_halted=jnp.zeros(shape, bool),
        num_units=jnp.zeros(shape, jnp.int32),
    )


def advance_halting(
    state: Halting, score: Array, *, min_active_share: float = 0.0
) -> tuple[Halting, Array]:
    """Takes the score of one unit.

    Args:
      state: before the unit.
      score: f32[...] of the shape of the state; 1 after the last unit.
      min_active_share: an image in which a smaller share of the positions would go on halts
        altogether; positions are all axes but the first. 0 lets every position decide.

    Returns:
      The state after the unit, and f32[...], the weight of the unit's result in the output; the
      weights of a position add up to 1.
    """
    was_active = ~state.is_halted
    total = state.total + score
    is_halted = total >= 1 - EPSILON
    if min_active_share:
        axes = tuple(range(1, total.ndim))
        share = jnp.mean(~is_halted, axis=axes, keepdims=True, dtype=jnp.float32)
        is_halted = is_halted | (share < min_active_share)
    # A position that has halted stays so, also where others of its image forced it.
    is_halted = is_halted | state.is_halted
    halts_now = is_halted & was_active
    spent = jnp.where(is_halted, 0.0, score)
    weight = jnp.where(halts_now, state.remainder, spent)
    step = jnp.where(is_halted, 0.0, 1.0)
    state = Halting(
        total=total,
        remainder=state.remainder - spent,
        ponder=state.ponder + jnp.where(halts_now, state.remainder, step),
        is_halted=is_halted,
        num_units=state.num_units + was_active.astype(jnp.int32),
    )
    return state, weight
