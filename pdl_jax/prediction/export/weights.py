"""Variables as an exported program stores them: float32, bfloat16, or kernels as 8-bit integers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array, PyTree

DTYPES = ('float32', 'bfloat16', 'int8')
_LARGEST = 127


class Quantized(NamedTuple):
    """A kernel as integers.

    Attributes:
      values: i8[k, k, C, D].
      scale: f32[D]; the kernel is values * scale.
    """

    values: Any
    scale: Any


def store_variables(variables: Variables, dtype: str) -> PyTree:
    """Rounds the kernels of convolutions; other variables take little space and stay float32.

    Args:
      variables: the variables of a system, as NumPy arrays.
      dtype: one of `DTYPES`. Integers are symmetric, with a scale per output channel.

    Returns:
      The same tree, of arrays and `Quantized`.
    """
    return jax.tree.map(lambda x: _store(np.asarray(x), dtype), variables)


def restore_variables(stored: PyTree) -> Variables:
    """Computes float32 variables from stored ones; in a program or outside of one."""
    return jax.tree.map(_restore, stored, is_leaf=lambda x: isinstance(x, Quantized))


def _store(x: np.ndarray, dtype: str) -> Any:
    if dtype == 'float32' or x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if dtype == 'bfloat16':
        return x.astype(jnp.bfloat16)
    scale = np.maximum(np.abs(x).max(axis=(0, 1, 2)), np.finfo(np.float32).tiny) / _LARGEST
    scale = scale.astype(np.float32)
    return Quantized(np.clip(np.rint(x / scale), -_LARGEST, _LARGEST).astype(np.int8), scale)


def _restore(x: Any) -> Array:
    if isinstance(x, Quantized):
        return dequantize(x.values, x.scale)
    return widen(x) if x.dtype == jnp.bfloat16 else x


@jax.jit
def dequantize(values: Array, scale: Array) -> Array:
    """Multiplies as one call in the program, which an exporter knows by its name."""
    return values.astype(jnp.float32) * scale


@jax.jit
def widen(values: Array) -> Array:
    """Converts bfloat16 as one call in the program, which an exporter knows by its name."""
    return values.astype(jnp.float32)
