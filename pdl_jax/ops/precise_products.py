"""Products of arrays of few bits whose sums are float32's."""

import functools

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.platforms import by_platform
from pdl_jax.typing import Array


def einsum_float32(
    subscripts: str, a: Array, b: Array, *, precision: lax.Precision | None = None
) -> Array:
    """Contracts two arrays as `jnp.einsum`, with float32 sums and result.

    XLA:CPU has no product of bfloat16 arrays with a float32 result for every shape, so there the
    arrays are widened first, which is exact.

    Args:
      subscripts: see `jnp.einsum`.
      a: float[...].
      b: float[...], of the same dtype.
      precision: of float32 products.

    Returns:
      f32[...].
    """
    contract = functools.partial(
        jnp.einsum, subscripts, precision=precision, preferred_element_type=jnp.float32
    )
    if a.dtype == b.dtype == jnp.float32:
        return contract(a, b)

    def widen(a: Array, b: Array) -> Array:
        return contract(a.astype(jnp.float32), b.astype(jnp.float32))

    return by_platform(a, b, default=contract, cpu=widen, portable=widen)
