"""Order, bound, errors and early ends of the map over an executor."""

import concurrent.futures
import threading

import pytest

from pdl_jax.runtime.ordered_map import map_ordered


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize('max_in_flight', [1, 3, 100])
def test_results_keep_the_order(pool, max_in_flight):
    results = map_ordered(pool, lambda i: i * i, range(10), max_in_flight=max_in_flight)
    assert list(results) == [i * i for i in range(10)]


@pytest.mark.parametrize('max_in_flight', [1, 4])
def test_items_are_taken_one_per_result(pool, max_in_flight):
    taken = []

    def take():
        for i in range(100):
            taken.append(i)
            yield i

    for result in map_ordered(pool, str, take(), max_in_flight=max_in_flight):
        assert len(taken) == min(int(result) + max_in_flight, 100)


def test_an_error_is_raised_in_its_place(pool):
    results = map_ordered(pool, lambda i: 1 // (i - 2), range(5), max_in_flight=5)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_cancels_what_has_not_started():
    started, release = [], threading.Event()

    def work(i):
        started.append(i)
        if i:
            release.wait(10)
        return i

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        results = map_ordered(pool, work, range(50), max_in_flight=20)
        assert next(results) == 0
        results.close()
        release.set()
        assert pool.submit(lambda: 'open').result() == 'open'
    assert set(started) <= {0, 1}


def test_nothing_in_flight_is_refused(pool):
    with pytest.raises(ValueError, match=r'max_in_flight \(=0\)'):
        next(map_ordered(pool, str, range(3), max_in_flight=0))
