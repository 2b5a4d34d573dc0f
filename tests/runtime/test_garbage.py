"""Containers that live, as those of a trace do, are searched less often for garbage."""

import gc

from pdl_jax.runtime.garbage import collect_garbage_rarely


def _count_collections():
    """Counts the collections of all generations while a million lists come to life."""
    before = sum(generation['collections'] for generation in gc.get_stats())
    kept = [[i] for i in range(1_000_000)]
    del kept
    return sum(generation['collections'] for generation in gc.get_stats()) - before


def test_living_containers_are_searched_rarely():
    thresholds = gc.get_threshold()
    # What other tests have left alive costs time here and tells nothing.
    gc.freeze()
    try:
        gc.set_threshold(700, 10, 10)
        usual = _count_collections()
        collect_garbage_rarely()
        assert 0 < _count_collections() < usual / 50
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
