"""Blocks of pixels as channels against TensorFlow's order."""

import numpy as np
import pytest

from pdl_jax.ops.space_to_depth import depth_to_space, space_to_depth


def test_equals_the_golden(find_golden):
    golden = np.load(find_golden('deeperlab', 'space_to_depth'))
    np.testing.assert_array_equal(space_to_depth(golden['x_nhwc'], 2), golden['tensorflow_nhwc'])


@pytest.mark.parametrize('size', [(8, 12), (5, 9), (33, 41)])
def test_the_way_back(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    deep = space_to_depth(x, 4)
    assert deep.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 48)
    np.testing.assert_array_equal(depth_to_space(deep, 4, size), x)
