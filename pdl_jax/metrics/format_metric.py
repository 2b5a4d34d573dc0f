"""Base class of the metrics: a subclass per label format, and sums widened on the host."""

import functools
from typing import Any, ClassVar, Self, TypeVar

import jax
import numpy as np
from clu import metrics
from flax import struct

from pdl_jax.typing import LabelFormat

_Metric = TypeVar('_Metric', bound='FormatMetric')


class FormatMetric(metrics.Metric):
    """Metric with its options as class attributes; its state is sums unless a subclass differs.

    Attributes:
      label_format: format of the label maps; None in classes not made by `make_class`.
      max_segments: number of rows for the segments of a map, 0 for metrics without segments.
    """

    label_format: ClassVar[LabelFormat | None] = None
    max_segments: ClassVar[int] = 0

    # pyright cannot tell that the type variable of `Metric.merge` is the class itself.
    def merge(self, other: Self) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds the sums of both, in their own precision."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def to_host(self) -> Self:
        """Fetches the sums as 64-bit NumPy arrays."""

        def widen(array: np.ndarray) -> np.ndarray:
            wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
            return np.asarray(array, wide)

        return jax.tree.map(widen, jax.device_get(self))

    def host_sums(self) -> dict[str, np.ndarray]:
        """Returns the sums by name, as 64-bit NumPy arrays."""
        return dict(vars(self.to_host()))

    def compute(self) -> Any:
        """Averages the sums; the metrics return dicts, where clu annotates an array."""
        raise NotImplementedError

    @classmethod
    def format(cls) -> LabelFormat:
        """Returns the label format that the class was made for.

        Raises:
          ValueError: the class was not made by `for_format`.
        """
        if cls.label_format is None:
            raise ValueError(
                f'{cls.__name__} has no label format: use {cls.__name__}.for_format(...)'
            )
        return cls.label_format


def make_class(metric: type[_Metric], **attributes: Any) -> type[_Metric]:
    """Makes the subclass with these class attributes; the same one for the same arguments."""
    return _make_class(metric, **attributes)


@functools.cache
def _make_class(metric: type[FormatMetric], **attributes: Any) -> Any:
    return struct.dataclass(type(metric.__name__, (metric,), attributes))


def refuse_overflow(num_overflowing: int, metric: type[FormatMetric]) -> None:
    """Raises ValueError if images had more segments than the metric has rows for."""
    if num_overflowing:
        raise ValueError(
            f'{num_overflowing} images have more than max_segments (={metric.max_segments}) '
            f'segments in the label map or the prediction: raise max_segments in '
            f'{metric.__name__}.for_format'
        )
