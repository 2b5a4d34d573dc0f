"""Matrix products over the channels and over the pixels of feature maps."""

from jax import lax

from pdl_jax.ops.placement import are_rows_split
from pdl_jax.typing import Array


def multiply_pixels(x: Array, matrix: Array) -> Array:
    """Multiplies the channels per pixel by a matrix: [B, H, W, C] and [C, D] to [B, H, W, D]."""
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def multiply_pixels_transposed(x: Array, matrix: Array) -> Array:
    """Multiplies by the transposed matrix: [B, H, W, D] and [C, D] to [B, H, W, C]."""
    return lax.dot_general(x, matrix, (((3,), (1,)), ((), ())))


def sum_outer_products(x: Array, y: Array) -> Array:
    """Sums outer products over pixels: [B, H, W, C] and [B, H, W, D] to [C, D].

    Pixels are flattened to one axis: for three, XLA:CPU first makes a transposed copy, which costs
    as much as the product.
    """
    if are_rows_split():
        return lax.dot_general(x, y, (((0, 1, 2), (0, 1, 2)), ((), ())))
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())))
