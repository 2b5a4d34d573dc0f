"""Division of integers beyond int32, rounded once to float32."""

import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array


def divide_rounding_once(high: Array, low: Array, divisor: Array) -> Array:
    """Divides high * 2**16 + low by `divisor` and rounds once, half to even, to float32.

    Args:
      high: i32[...], 0 <= high < divisor.
      low: i32[...], 0 <= low < 2**16.
      divisor: i32[...], below 2**30.

    Returns:
      f32[...], the float32 nearest to the quotient.
    """

    def add_bit(
        step: Array, state: tuple[Array, Array, Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        mantissa, rest, exponent, is_inexact = state
        bit = jnp.where(step < 16, (low >> jnp.maximum(15 - step, 0)) & 1, 0)
        rest = 2 * rest + bit
        digit = (rest >= divisor).astype(jnp.int32)
        rest = rest - digit * divisor
        # 24 bits of mantissa and one for rounding; later digits only tell if the quotient is exact.
        is_open = mantissa < 2**24
        mantissa = jnp.where(is_open, 2 * mantissa + digit, mantissa)
        exponent = jnp.where(is_open, 15 - step, exponent)
        is_inexact = is_inexact | (~is_open & (digit > 0))
        return mantissa, rest, exponent, is_inexact

    zeros = jnp.zeros_like(high)
    mantissa, rest, exponent, is_inexact = lax.fori_loop(
        0, 72, add_bit, (zeros, high, zeros, jnp.zeros_like(high, bool))
    )
    is_inexact = is_inexact | (rest > 0)
    half, whole = mantissa & 1, mantissa >> 1
    whole = whole + (half & (is_inexact | (whole & 1 > 0)))
    scale = lax.bitcast_convert_type((exponent + 1 + 127) << 23, jnp.float32)
    return whole.astype(jnp.float32) * scale
