"""Segment operations: both implementations against NumPy, in jit and vmap."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops import segments
from pdl_jax.ops.exact_division import divide_rounding_once

SIZE = (37, 53)


def make_index(seed, num, size=SIZE):
    """Draws random segment numbers, some out of range on both sides."""
    return np.random.default_rng(seed).integers(-2, num + 2, size).astype(np.int32)


def run(function, *args):
    """Runs eagerly jitted and as the second row of a vmapped pair; both must agree."""
    single = jax.jit(function)(*args)
    batched = jax.jit(jax.vmap(function))(*(jnp.stack([jnp.zeros_like(a), a]) for a in args))
    for one, many in zip(jax.tree.leaves(single), jax.tree.leaves(batched), strict=True):
        np.testing.assert_array_equal(one, many[1])
    return jax.tree.map(np.asarray, single)


@pytest.fixture(params=['default', 'tpu'])
def platform(request):
    return request.param


@pytest.mark.parametrize('size', [4, 9, 16])
def test_unique_labels(platform, size):
    form = {'default': segments._unique_by_table, 'tpu': segments._unique_by_sort}[platform]
    values = np.array([-1, 0, 3, 4, 8, 17, 99, 100, 250, 51, 70], np.int32)
    labels = np.random.default_rng(0).choice(values, SIZE)
    ids, count = run(lambda x: form(x, size, 100), labels)
    expected = np.array([0, 3, 4, 8, 17, 51, 70, 99])
    np.testing.assert_array_equal(ids, np.pad(expected, (0, 9), constant_values=100)[:size])
    assert count == len(expected)


def test_unique_labels_keeps_more_rows_than_pixels(platform):
    form = {'default': segments._unique_by_table, 'tpu': segments._unique_by_sort}[platform]
    ids, count = form(jnp.array([[5, 5]]), 4, 10)
    np.testing.assert_array_equal(ids, [5, 10, 10, 10])
    assert count == 1


@pytest.mark.parametrize('num_labels', [None, 100])
@pytest.mark.parametrize('num_ids', [3, 16, 21])
def test_index_labels(platform, num_labels, num_ids):
    form = {'default': segments._index_by_table, 'tpu': segments._index_by_comparison}[platform]
    labels = np.random.default_rng(1).integers(-2, 100, SIZE).astype(np.int32)
    ids = np.sort(np.random.default_rng(2).choice(100, num_ids, replace=False)).astype(np.int32)
    ids[-2:] = 100
    index = run(lambda labels, ids: form(labels, ids, num_labels), labels, ids)
    row_of = {int(v): i for i, v in enumerate(ids[:-2])}
    np.testing.assert_array_equal(index, np.vectorize(lambda v: row_of.get(v, num_ids))(labels))


def test_index_labels_never_matches_filled_rows_of_a_known_bound(platform):
    form = {'default': segments._index_by_table, 'tpu': segments._index_by_comparison}[platform]
    index = form(jnp.array([[7, 10, 11, -1]]), jnp.array([7, 10, 10]), 10)
    np.testing.assert_array_equal(index, [[0, 3, 3, 3]])


@pytest.mark.parametrize('channels', [(), (3,)])
def test_segment_sum(platform, channels):
    form = {'default': segments._sum_by_scatter, 'tpu': segments._sum_by_product}[platform]
    index = make_index(3, 11)
    values = np.random.default_rng(4).integers(-4000, 4000, (*SIZE, *channels)).astype(np.float32)
    expected = np.stack([values[index == i].sum(0) for i in range(11)])
    sums = run(lambda i, v: form(i, v.reshape(*SIZE, -1), 11), index, values)
    np.testing.assert_array_equal(sums.reshape(expected.shape), expected)
    np.testing.assert_array_equal(segments.segment_sum(index, values, 11), expected)


def test_segment_sum_does_not_drift_over_millions_of_pixels():
    index = jnp.zeros((1025, 2049), jnp.int32)
    total = segments.segment_sum(index, jnp.full(index.shape, 0.9), 1)[0]
    assert float(total) == pytest.approx(1025 * 2049 * np.float32(0.9).item(), rel=2e-5)


def test_count_pairs(platform):
    form = {'default': segments._count_by_scatter, 'tpu': segments._count_by_product}[platform]
    row, column = make_index(5, 13), make_index(6, 7)
    expected = np.zeros((13, 7), np.int32)
    for i, j in zip(row.ravel(), column.ravel(), strict=True):
        if 0 <= i < 13 and 0 <= j < 7:
            expected[i, j] += 1
    counts = run(lambda i, j: form(i, j, 13, 7), row, column)
    assert counts.dtype == np.int32
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize('shape', [(9,), (9, 2)])
@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_lookup_moves_every_bit(platform, shape, dtype):
    form = {'default': segments._look_up_by_gather, 'tpu': segments._look_up_by_product}[platform]
    table = np.random.default_rng(7).integers(-(2**31), 2**31, shape).astype(np.int32)
    if dtype == np.float32:
        table = np.random.default_rng(7).normal(0, 1e6, shape).astype(np.float32)
        table[0] = np.inf
    index = make_index(8, 9)
    expected = table[np.clip(index, 0, 8)]
    expected[(index < 0) | (index > 8)] = 0
    found = run(form, table, index)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def centroid_forms(index, num, platform):
    """Runs `segment_centroids` with the implementation of a platform, wherever the test runs."""
    scatter, product = segments._row_sums_by_scatter, segments._row_sums_by_product
    form = {'default': scatter, 'tpu': product}[platform]
    area_of_row, high, low = form(index, num)
    return area_of_row.sum(0), segments._weighted_sum(area_of_row), (high, low)


def exact_mean(positions):
    """Computes the float32 nearest to the mean of integers, halves to even, as a rational."""
    mean = fractions.Fraction(int(positions.sum(dtype=np.int64)), positions.size)
    nearest = np.float32(positions.mean(dtype=np.float64))
    candidates = [np.nextafter(nearest, np.float32(d)) for d in (-np.inf, np.inf)] + [nearest]
    distance = {c: abs(fractions.Fraction(float(c)) - mean) for c in candidates}
    best = min(distance.values())
    tied = [c for c in candidates if distance[c] == best]
    return next((c for c in tied if c.view(np.int32) % 2 == 0), tied[0])


def test_centroid_sums_agree_between_implementations(platform):
    index = make_index(9, 12)
    area, (high_y, low_y), (high_x, low_x) = centroid_forms(index, 12, platform)
    for i in range(12):
        y, x = np.nonzero(index == i)
        assert area[i] == len(y)
        assert high_y[i] * 65536 + low_y[i] == y.sum()
        assert high_x[i] * 65536 + low_x[i] == x.sum()


def test_segment_centroids_are_the_nearest_floats():
    index = make_index(10, 200, (211, 307))
    index[:5] = 3
    area, mean = run(lambda i: segments.segment_centroids(i, 205), index)
    for i in range(202):
        y, x = np.nonzero(index == i)
        assert area[i] == len(y)
        assert (mean[i, 0], mean[i, 1]) == (exact_mean(y), exact_mean(x)), i
    np.testing.assert_array_equal(area[202:], 0)
    np.testing.assert_array_equal(mean[202:], 0)


def test_segment_centroids_do_not_overflow_on_a_full_image(platform):
    index = np.zeros((1025, 2049), np.int32)
    index[0, 0], index[1024, 2047:] = 1, 2
    y, x = np.nonzero(index == 0)
    area, sum_y, sum_x = jax.jit(centroid_forms, static_argnums=(1, 2))(index, 3, platform)
    divide = jax.jit(divide_rounding_once)
    assert area[0] == len(y)
    assert divide(*sum_y, area)[0] == exact_mean(y)
    assert divide(*sum_x, area)[0] == exact_mean(x)
    np.testing.assert_array_equal(divide(*sum_y, area)[1:], [0, 1024])
    np.testing.assert_array_equal(divide(*sum_x, area)[1:], [0, 2047.5])


def test_division_rounds_once():
    rng = np.random.default_rng(11)
    divisor = rng.integers(1, 2**24, 4000)
    quotient = rng.integers(0, 2**12, 4000) >> rng.integers(0, 13, 4000)
    rest = rng.integers(0, divisor)
    # Quotients exactly between two floats, and just beside such a point.
    divisor[:1000], rest[:1000] = 2**20, rng.integers(0, 2**20, 1000)
    divisor[1000:2000], quotient[1000:2000] = 2**24 - 1, 2047
    rest[1000:2000] = 2**23 + rng.integers(-2, 3, 1000)
    total = quotient * divisor + rest
    arguments = (jnp.asarray(v, jnp.int32) for v in (total >> 16, total & 0xFFFF, divisor))
    result = np.asarray(divide_rounding_once(*arguments))
    for value, numerator, denominator in zip(result, total, divisor, strict=True):
        exact = fractions.Fraction(int(numerator), int(denominator))
        error = abs(fractions.Fraction(float(value)) - exact)
        for direction in (-np.inf, np.inf):
            other = np.nextafter(value, np.float32(direction))
            other_error = abs(fractions.Fraction(float(other)) - exact)
            is_even = value.view(np.int32) % 2 == 0
            assert error < other_error or (error == other_error and is_even)


def test_first_columns(platform):
    scatter, comparison = segments._first_columns_by_scatter, segments._first_columns_by_comparison
    form = {'default': scatter, 'tpu': comparison}[platform]
    index = make_index(12, 20)
    expected = [
        [row.index(i) if i in row else SIZE[1] for i in range(20)] for row in index.tolist()
    ]
    np.testing.assert_array_equal(run(lambda i: form(i, 20), index), expected)


def test_first_pixels_and_boxes():
    index = np.full(SIZE, -1, np.int32)
    index[3:9, 10:20], index[5, 40], index[36, 52], index[0, 0] = 1, 1, 2, 4
    first, boxes = run(lambda i: (segments.first_pixels(i, 6), segments.segment_boxes(i, 6)), index)
    none = SIZE[0] * SIZE[1]
    np.testing.assert_array_equal(first, [none, 3 * 53 + 10, none - 1, none, 0, none])
    empty = [0, 0, 0, 0]
    np.testing.assert_array_equal(
        boxes, [empty, [3, 10, 9, 41], [36, 52, 37, 53], empty, [0, 0, 1, 1], empty]
    )
