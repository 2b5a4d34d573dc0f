"""Cells: every operation, the published file, and files that are none."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.dense_prediction_cell import (
    CITYSCAPES_CELL,
    Branch,
    DensePredictionCell,
    format_cell,
    parse_cell,
)
from pdl_jax.models.summary import add_up, summarize
from pdl_jax.presets import make_options

# TF DeepLab's dense_prediction_cell_branch5_top1_cityscapes.json.
PUBLISHED = (
    '[{"kernel": 3, "rate": [1, 6], "op": "conv", "input": -1}, '
    '{"kernel": 3, "rate": [18, 15], "op": "conv", "input": 0}, '
    '{"kernel": 3, "rate": [6, 3], "op": "conv", "input": 1}, '
    '{"kernel": 3, "rate": [1, 1], "op": "conv", "input": 0}, '
    '{"kernel": 3, "rate": [6, 21], "op": "conv", "input": 0}]'
)
ALL_KINDS = (Branch(-1, kernel_size=1), Branch(-1, grid=(2, 1)), Branch(1, (3, 1)))


class _Evaluated(nn.Module):
    cell: nn.Module

    def __call__(self, x):
        return self.cell(x, train=False)


def test_the_published_file():
    assert parse_cell(PUBLISHED) == CITYSCAPES_CELL
    assert format_cell(CITYSCAPES_CELL) == PUBLISHED


def test_files_come_back():
    assert parse_cell(format_cell(ALL_KINDS)) == ALL_KINDS
    lists = '[{"op": "conv", "kernel": [3, 3], "rate": [1, 1], "input": -1}]'
    assert parse_cell(lists) == (Branch(-1),)


def test_counts_by_hand():
    parts = summarize(_Evaluated(DensePredictionCell(8, cell=ALL_KINDS)), (9, 13), num_channels=4)
    pixels, pooled = 9 * 13, 5 * 1
    assert add_up(parts).multiply_adds == (
        pixels * 4 * 8 + pooled * 4 * 8 + pixels * (9 * 8 + 8 * 8) + pixels * 24 * 8
    )
    assert add_up(parts).parameters == 2 * (32 + 16) + (72 + 16 + 64 + 16) + (192 + 16)


def test_pooling_averages_windows():
    """Of features that are their row, windows of 3 of 5 rows have the means 1, 2 and 3."""
    rows = jnp.broadcast_to(jnp.arange(5.0)[None, :, None, None], (1, 5, 5, 1))
    cell = DensePredictionCell(1, cell=(Branch(-1, grid=(2, 1)),))
    variables = cell.init(jax.random.key(0), rows, train=False)
    _, state = cell.apply(
        variables, rows, train=False, capture_intermediates=lambda m, _: m.name == 'branch_0'
    )
    (pooled,) = state['intermediates']['branch_0']['__call__']
    kernel = float(variables['params']['branch_0']['conv']['kernel'].squeeze())
    expected = np.maximum(kernel * np.array([1.0, 2.0, 3.0]) / np.sqrt(1 + 1e-3), 0)
    np.testing.assert_allclose(pooled[0, :, 0, 0], expected, rtol=1e-5)


def test_a_network_has_the_cell_of_its_options():
    name = 'tensorflow/deeplab_v3plus_xception71_dpc_os16'
    assert make_options(name).cell == ''
    options = make_options(name, cell=format_cell(ALL_KINDS))
    assert json.loads(options.cell)[1]['grid_size'] == [2, 1]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is no JSON'),
        ('[' * 2000, 'is no JSON'),
        (' ' * 5000, '5000 characters'),
        ('[]', 'list of 1 to 16'),
        ('[1]', 'branch 0 needs an "input"'),
        ('[{"op": "conv", "kernel": 1, "input": true}]', 'branch 0 needs an "input"'),
        ('[{"op": "conv", "kernel": 1, "input": 0}]', 'reads branch 0, which is not before it'),
        ('[{"op": "conv", "kernel": 5, "input": -1}]', 'the "kernel" 1 or 3'),
        ('[{"op": "conv", "kernel": 3, "input": -1}]', 'a "rate" of two integers'),
        ('[{"op": "conv", "kernel": 3, "rate": [1, 999], "input": -1}]', 'from 1 to 64'),
        ('[{"op": "pyramid_pooling", "grid_size": 2, "input": -1}]', 'a "grid_size" of two'),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_cell(text)
