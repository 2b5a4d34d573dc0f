"""The hash table against a dictionary, also where many keys want the same slot."""

import jax
import numpy as np
import pytest

from pdl_jax.ops import hash_table
from pdl_jax.ops.hash_table import find_rows, make_table


@pytest.mark.parametrize('num_hashes', [None, 3])
def test_rows_of_equal_keys_have_one_owner(num_hashes, monkeypatch):
    if num_hashes:
        hash_keys = hash_table._hash
        monkeypatch.setattr(
            hash_table, '_hash', lambda keys, slots: hash_keys(keys, slots) % num_hashes
        )
    rng = np.random.default_rng(0)
    keys = rng.integers(-3, 3, (200, 3)).astype(np.int32)
    wanted = rng.integers(-4, 4, (150, 3)).astype(np.int32)

    def run(keys, wanted):
        table, owner = make_table(keys)
        return owner, find_rows(table, wanted)

    owner, found = jax.jit(run)(keys, wanted)
    first = {}
    for row, key in enumerate(map(tuple, keys.tolist())):
        first.setdefault(key, row)
    assert owner.tolist() == [first[key] for key in map(tuple, keys.tolist())]
    assert found.tolist() == [first.get(key, -1) for key in map(tuple, wanted.tolist())]
    # Some are there and some are not.
    assert -1 in found.tolist() and max(found.tolist()) >= 0
