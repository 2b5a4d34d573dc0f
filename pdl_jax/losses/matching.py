"""Bipartite matching of segments and queries at least total cost, exact and of fixed shapes."""

import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array

# Costs are clipped to this size, so that their sums stay finite and every search ends.
_LARGEST_COST = 1e30


def match_rows(cost: Array, valid: Array) -> Array:
    """Matches valid rows of a cost matrix with distinct columns at the least total cost.

    Shortest augmenting paths: a row takes its cheapest column if it is the first to ask for it, and
    every other row searches for the cheapest way to move rows that stand in its way. Each step of a
    search is a few operations on one vector of columns; invalid rows take none. Vmapped, the
    searches of a batch advance together.

    Args:
      cost: f32[M, N]. NaN counts as 0: a network that diverged must not stop the program.
      valid: bool[M], rows to match. If there are more of them than columns, the N of them are
        matched that make the total least.

    Returns:
      i32[M], the column of each row; -1 for rows that are not matched.

    Source: Jonker and Volgenant, A Shortest Augmenting Path Algorithm for Dense and Sparse Linear
    Assignment Problems, Computing 1987; Crouse, On implementing 2D rectangular assignment
    algorithms, IEEE TAES 2016.
    """
    num_rows, num_columns = cost.shape
    cost = jnp.clip(jnp.where(jnp.isnan(cost), 0.0, cost), -_LARGEST_COST, _LARGEST_COST)
    if num_rows > num_columns:
        # Columns search for rows. Invalid rows cost more than any valid one, so that they are taken
        # only if there are too few of those.
        highest = jnp.max(jnp.where(valid[:, None], cost, -_LARGEST_COST))
        cost = jnp.where(valid[:, None], cost, highest + 1)
        column = _assign(cost.T, jnp.ones(num_columns, bool))
        return jnp.where(valid, column, -1)
    is_match = _assign(cost, valid) == jnp.arange(num_rows)[:, None]
    column = jnp.argmax(is_match, axis=1).astype(jnp.int32)
    return jnp.where(jnp.any(is_match, axis=1), column, -1)


def _assign(cost: Array, valid: Array) -> Array:
    """Returns i32[N], the row of each column or -1; needs at least as many columns as rows."""
    rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in cost.shape)
    is_claim = valid[:, None] & (jnp.argmin(cost, axis=1)[:, None] == columns)
    owner = jnp.where(jnp.any(is_claim, 0), jnp.argmax(is_claim, axis=0), -1).astype(jnp.int32)
    waiting = valid & ~jnp.any(owner == rows[:, None], axis=1)

    def add_row(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        price, owner, waiting = state
        # Under vmap an image that is done has no row left: -1 ends both of its loops at once.
        row = jnp.where(jnp.any(waiting), jnp.argmax(waiting).astype(jnp.int32), -1)
        column, before, price = _search(cost, price, owner, row)

        def move(state: tuple[Array, Array]) -> tuple[Array, Array]:
            column, owner = state
            previous = before[column]
            mover = jnp.where(previous < 0, row, owner[previous])
            return previous, jnp.where(columns == column, mover, owner)

        _, owner = lax.while_loop(lambda state: state[0] >= 0, move, (column, owner))
        return price, owner, waiting & (rows != row)

    state = jnp.zeros_like(cost[0]), owner, waiting
    return lax.while_loop(lambda state: jnp.any(state[2]), add_row, state)[1]


def _search(cost: Array, price: Array, owner: Array, row: Array) -> tuple[Array, Array, Array]:
    """Finds the cheapest path from a row over owned columns to a free one.

    Returns:
      column: i32[], the free column, -1 if `row` is.
      before: i32[N], the column before each on its path, -1 if it is the first.
      price: f32[N], at which every owner's column is the cheapest for it.
    """
    columns = jnp.arange(cost.shape[1], dtype=jnp.int32)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        column, row, length, shortest, before, is_scanned = state
        reduced = cost[row] - price
        start = jnp.where(column < 0, 0.0, reduced[column] - length)
        is_shorter = ~is_scanned & (reduced - start < shortest)
        shortest = jnp.where(is_shorter, reduced - start, shortest)
        before = jnp.where(is_shorter, column, before)
        left = jnp.where(is_scanned, jnp.inf, shortest)
        column = jnp.argmin(left).astype(jnp.int32)
        is_scanned = is_scanned | (columns == column)
        return column, owner[column], left[column], shortest, before, is_scanned

    infinity, none = jnp.full_like(price, jnp.inf), jnp.int32(-1)
    state = (none, row, price[0] * 0, infinity, jnp.full_like(columns, -1), columns < 0)
    state = lax.while_loop(lambda state: state[1] >= 0, step, state)
    column, _, length, shortest, before, is_scanned = state
    return column, before, jnp.where(is_scanned, price + shortest - length, price)
