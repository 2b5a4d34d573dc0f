"""Mutated files of weights are read or refused by name: no other error, no hang, no code.

PDL_JAX_MUTATIONS sets the number of each kind.
"""

import os
import resource

import pytest

from tests.convert.mutations import KINDS, Watch, make_seeds, mutate, read

COUNT = int(os.environ.get('PDL_JAX_MUTATIONS', '150'))


@pytest.fixture(scope='module')
def seeds():
    return make_seeds()


@pytest.fixture(scope='module')
def watch():
    return Watch()


@pytest.mark.parametrize('kind', KINDS)
def test_mutated_files_are_read_or_refused_by_name(kind, seeds, watch, tmp_path):
    if kind not in seeds:
        pytest.skip('needs PyTorch')
    path = tmp_path / f'weights.{"pth" if kind in ("zip", "stream") else kind}'
    path.write_bytes(seeds[kind])
    assert read(path, watch)[0] == ''
    # In kB, of the whole process.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, slowest = 0, 0.0
    for seed in range(COUNT):
        path.write_bytes(mutate(seeds[kind], seed, kind))
        result, seconds = read(path, watch)
        assert not result.startswith('UNNAMED'), (seed, result)
        refused, slowest = refused + bool(result), max(slowest, seconds)
    assert refused > COUNT / 4 and slowest < 10 and not watch.events
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000
    print(f'{kind}: {COUNT} mutations, {refused} refused, slowest {slowest:.2f} s, +{grown} kB')
