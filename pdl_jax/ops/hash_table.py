"""A hash table of integer vectors, built and searched by all rows at once."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.typing import Array

# Slots per row, at least, so that most keys are found at the first try.
_SLOTS_PER_ROW = 2
# Rows that are inserted together after the first try, as a share of all: few are left.
_LATER_SHARE = 16
_EMPTY = np.iinfo(np.int32).max


class HashTable(NamedTuple):
    """An open-addressing table of the distinct rows of an array.

    Attributes:
      keys: i32[K, d], the array.
      slots: i32[S], the row that stands for all that equal it, or a number beyond all rows where
        the slot is empty; S is a power of 2.
    """

    keys: Array
    slots: Array


def make_table(keys: Array) -> tuple[HashTable, Array]:
    """Makes the table of an array.

    Args:
      keys: i32[K, d].

    Returns:
      The table, and i32[K], for each row the one that stands for it in the table.
    """
    num_rows = keys.shape[0]
    num_slots = 1 << (_SLOTS_PER_ROW * num_rows - 1).bit_length()
    rows = jnp.arange(num_rows, dtype=jnp.int32)
    slot = _hash(keys, num_slots)
    # All rows try at once, and the lowest row wins a slot.
    slots = jnp.full(num_slots, _EMPTY, jnp.int32).at[slot].min(rows)
    owner = _match(slots, slot, keys, keys)
    size = max(1, num_rows // _LATER_SHARE)

    def insert_some(state: tuple[Array, Array]) -> tuple[Array, Array]:
        slots, owner = state
        # The rows that have no slot yet, or the first of them.
        (left,) = jnp.nonzero(owner < 0, size=size, fill_value=num_rows)
        slots, found = _insert(slots, keys, left.astype(jnp.int32))
        return slots, owner.at[left].set(found, mode='drop')

    slots, owner = lax.while_loop(lambda state: jnp.any(state[1] < 0), insert_some, (slots, owner))
    return HashTable(keys, slots), owner


def _insert(slots: Array, keys: Array, rows: Array) -> tuple[Array, Array]:
    """Inserts rows, i32[W], into slots in use; rows beyond the keys are left out.

    Returns:
      The slots, and i32[W], for each row the one that stands for it.
    """
    num_slots = slots.shape[0]
    wanted = keys.at[rows].get(mode='clip')

    def insert(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        slots, found, slot = state
        # Only an empty slot may be taken: the winner of an earlier try keeps its own.
        is_free = (found < 0) & (slots[slot] == _EMPTY)
        slots = slots.at[jnp.where(is_free, slot, num_slots)].min(rows, mode='drop')
        found = jnp.where(found < 0, _match(slots, slot, wanted, keys), found)
        return slots, found, jnp.where(found < 0, (slot + 1) & (num_slots - 1), slot)

    found = jnp.where(rows < keys.shape[0], -1, 0)
    start = slots, found, _hash(wanted, num_slots)
    slots, found, _ = lax.while_loop(lambda state: jnp.any(state[1] < 0), insert, start)
    return slots, found


def find_rows(table: HashTable, wanted: Array) -> Array:
    """Finds rows by their keys.

    Args:
      table: the table.
      wanted: i32[W, d].

    Returns:
      i32[W], the row of the table with this key; -1 where there is none.
    """
    num_slots = table.slots.shape[0]

    def look(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        slot, found, is_open = state
        match = _match(table.slots, slot, wanted, table.keys)
        found = jnp.where(is_open, match, found)
        is_open &= (match < 0) & (table.slots[slot] != _EMPTY)
        return (slot + 1) & (num_slots - 1), found, is_open

    start = (
        _hash(wanted, num_slots),
        jnp.full(wanted.shape[0], -1, jnp.int32),
        jnp.ones(wanted.shape[0], bool),
    )
    return lax.while_loop(lambda state: jnp.any(state[2]), look, start)[1]


def _match(slots: Array, slot: Array, wanted: Array, keys: Array) -> Array:
    """Returns the row in each slot, i32[W]; -1 where its key is not the wanted one."""
    row = slots.at[slot].get(mode='promise_in_bounds')
    is_same = jnp.all(keys.at[row].get(mode='clip') == wanted, axis=1)
    return jnp.where(is_same & (row != _EMPTY), row, -1)


def _hash(keys: Array, num_slots: int) -> Array:
    """Returns the first slot to try, i32[W] in [0, num_slots)."""
    mixed = jnp.zeros(keys.shape[0], jnp.uint32)
    for i in range(keys.shape[1]):
        mixed = (mixed ^ keys[:, i].astype(jnp.uint32)) * np.uint32(0x9E3779B1)
        mixed ^= mixed >> 15
    return (mixed & np.uint32(num_slots - 1)).astype(jnp.int32)
