"""Products with float32 sums, on the platform of the tests and as other runtimes compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.platforms import pin_platform
from pdl_jax.ops.precise_products import einsum_float32

# Of a kMaX-DeepLab: k-means sums, mask logits, attention among queries, and axial attention to
# positions, whose product XLA:CPU does not have in bfloat16 with a float32 result.
SHAPES = [
    ('bhwn,bhwd->bnd', (1, 49, 65, 64), (1, 49, 65, 64)),
    ('bhwd,bnd->bhwn', (1, 49, 65, 32), (1, 64, 32)),
    ('bnhd,bmhd->bhnm', (1, 64, 4, 16), (1, 512, 4, 16)),
    ('bonlm,lmd->blond', (1, 33, 8, 17, 17), (17, 17, 16)),
]


@pytest.mark.parametrize(('subscripts', 'a', 'b'), SHAPES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('platform', ['cpu', 'portable'])
def test_sums_are_those_of_float32(subscripts, a, b, dtype, platform):
    a, b = (
        jax.random.normal(jax.random.key(i), shape).astype(dtype) for i, shape in enumerate((a, b))
    )
    with pin_platform(platform):
        found = jax.jit(lambda a, b: einsum_float32(subscripts, a, b))(a, b)
    expected = np.einsum(subscripts, *(np.asarray(x, np.float64) for x in (a, b)))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)
