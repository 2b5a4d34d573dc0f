"""The CPU implementations of convolutions against XLA's own, values and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pdl_jax.ops.convolution import conv
from pdl_jax.ops.depthwise_convolution import depthwise_conv
from pdl_jax.ops.padding import same_padding, symmetric_padding


def _reference(x, kernel, stride, dilation, padding, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=np.broadcast_to(dilation, 2),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def _check(ours, reference, x, kernel):
    rng = np.random.default_rng(1)
    gradient = jnp.asarray(rng.normal(size=jax.eval_shape(reference, x, kernel).shape), jnp.float32)

    # Disable optimisation: it would take most of the time.
    @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
    def both(x, kernel, gradient):
        return [
            (y, *vjp(gradient)) for y, vjp in (jax.vjp(f, x, kernel) for f in (reference, ours))
        ]

    expected, actual = both(x, kernel, gradient)
    for a, b, tolerance in zip(actual, expected, (1e-4, 3e-4, 3e-4), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance)


CASES = list(itertools.product((1, 3, 5), (1, 2), (1, 2), ('symmetric', 'same')))


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'stride', 'dilation', 'padding'), CASES)
@pytest.mark.parametrize('is_depthwise', [False, True])
def test_equals_xla(size, stride, dilation, padding, is_depthwise):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 10, 13, 4)), jnp.float32)
    if padding == 'same':
        pads = same_padding((10, 13), size, stride, dilation)
    else:
        pads = symmetric_padding(size, dilation)
    if is_depthwise:
        kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
        _check(
            lambda x, k: depthwise_conv(x, k, stride, dilation, pads),
            lambda x, k: _reference(x, k, stride, dilation, pads, groups=4),
            x,
            kernel,
        )
    else:
        kernel = jnp.asarray(rng.normal(size=(size, size, 4, 6)), jnp.float32)
        _check(
            lambda x, k: conv(x, k, stride, dilation, pads),
            lambda x, k: _reference(x, k, stride, dilation, pads),
            x,
            kernel,
        )


@pytest.mark.parametrize(('size', 'stride'), [(10, 2), (11, 2), (9, 1), (7, 3)])
def test_same_padding_is_that_of_xla(size, stride):
    expected = lax.padtype_to_pads((size, size), (3, 3), (stride, stride), 'SAME')
    assert list(same_padding((size, size), 3, stride, 1)) == [tuple(p) for p in expected]


@pytest.mark.parametrize('padding', ['symmetric', 'same'])
def test_dilation_of_height_and_width_may_differ(padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 10, 13, 4)), jnp.float32)
    dilation = (1, 3)
    if padding == 'same':
        pads = same_padding((10, 13), 3, 1, dilation)
    else:
        pads = symmetric_padding(3, dilation)
    assert pads == ((1, 1), (3, 3))
    _check(
        lambda x, k: depthwise_conv(x, k, 1, dilation, pads),
        lambda x, k: _reference(x, k, 1, dilation, pads, groups=4),
        x,
        jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32),
    )


@pytest.mark.parametrize('dilation', [(11, 3), (2, 14), (16, 16)])
def test_taps_that_miss_the_map(dilation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 10, 13, 4)), jnp.float32)
    pads = symmetric_padding(3, dilation)
    _check(
        lambda x, k: conv(x, k, 1, dilation, pads),
        lambda x, k: _reference(x, k, 1, dilation, pads),
        x,
        jnp.asarray(rng.normal(size=(3, 3, 4, 6)), jnp.float32),
    )
