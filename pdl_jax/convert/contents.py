"""The contents of a file of weights: arrays by key, read when they are used."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

# Larger than any published network.
MAX_BYTES = 2**33
_MAX_MESSAGE = 600


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that is read when it is converted to NumPy.

    Attributes:
      shape: shape of the array.
      read: function that reads it.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
      arrays: NumPy arrays, or objects with a `shape` that NumPy can convert, by key.
      others: names of entries that are left out, beside the arrays or beside the dict that wraps
        them.
      notes: sentences about the choice between several sets of weights and about their keys.
    """

    arrays: dict[str, Any]
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def describe_error(error: BaseException) -> str:
    """Words an error of a reader, whose message may be empty, long, or of several lines."""
    words = ' '.join(str(error).split()) or type(error).__name__
    return words if len(words) <= _MAX_MESSAGE else f'{words[:_MAX_MESSAGE]}...'


def check_layout(shape: Any, what: str) -> tuple[int, ...]:
    """Checks a shape or the strides that a file gives.

    Raises:
      ValueError: it is no short sequence of moderate integers.
    """
    if (
        not isinstance(shape, tuple | list)
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n < 2**40 for n in shape)
    ):
        raise ValueError(f'{what} of an array is no list of sizes')
    return tuple(shape)
