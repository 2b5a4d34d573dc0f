"""What the metrics of one label format share: the class made for it, and sums kept on the host."""

import functools
from typing import ClassVar

import flax
import jax
import numpy as np
from clu import metrics

from pdl_jax.typing import LabelFormat


class FormatMetric(metrics.Metric):
    """A metric whose rules are attributes of its class; states are sums unless a subclass differs."""

    label_format: ClassVar[LabelFormat | None] = None

    def merge(self, other: 'FormatMetric') -> 'FormatMetric':
        """Adds the sums up, in the precision that they have."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def to_host(self) -> 'FormatMetric':
        """Fetches the sums as NumPy arrays of 64 bits."""

        def widen(array):
            wide = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
            return np.asarray(array, wide)

        return jax.tree.map(widen, jax.device_get(self))

    @classmethod
    def format(cls) -> LabelFormat:
        """The label format that the class was made for.

        Raises:
          ValueError: it was made for none.
        """
        if cls.label_format is None:
            raise ValueError(
                f'{cls.__name__} has no label format: use {cls.__name__}.for_format(...)'
            )
        return cls.label_format


@functools.cache
def make_class(metric: type[FormatMetric], **attributes) -> type[FormatMetric]:
    """Makes the subclass with these class attributes; the same one for the same arguments."""
    return flax.struct.dataclass(type(metric.__name__, (metric,), attributes))


def refuse_overflow(num_overflowing: int, metric: type[FormatMetric]) -> None:
    """Raises ValueError where images had more segments than the metric has rows for."""
    if num_overflowing:
        raise ValueError(
            f'{num_overflowing} images have more than max_segments (={metric.max_segments}) '
            f'segments in the label map or the prediction: raise max_segments in '
            f'{metric.__name__}.for_format'
        )
