"""Mean of the terms of a loss over images."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pdl_jax.metrics.format_metric import FormatMetric
from pdl_jax.typing import Array


@struct.dataclass
class LossMean(FormatMetric):
    """Sums the terms of each image, in 64 bits on the host.

    Attributes:
      terms: f32[B] by name on the device, 0 for images that pad the batch; f64[1] sums on the host.
      count: i32[B], 1 for each image that counts; i64[1] on the host.
    """

    terms: Mapping[str, Array | np.ndarray]
    count: Array | np.ndarray

    @classmethod
    def empty(cls) -> 'LossMean':
        """Returns the mean of nothing."""
        return cls(terms={}, count=np.zeros(1, np.int64))

    @classmethod
    def from_model_output(
        cls, *, image_losses: dict[str, Array], valid: Array, **_: Any
    ) -> 'LossMean':
        """Takes a batch.

        Args:
          image_losses: f32[B] by name.
          valid: bool[B], false for images that pad the batch.
        """
        terms = {name: jnp.where(valid, values, 0.0) for name, values in image_losses.items()}
        return cls(terms=terms, count=valid.astype(jnp.int32))

    def merge(self, other: 'LossMean') -> 'LossMean':
        """Adds two sums, which must not be on a device."""
        ours, theirs = jax.tree.map(
            lambda x: np.sum(x, keepdims=True, dtype=np.result_type(x, np.int64)),
            (self, other),
        )
        terms = {name: ours.terms.get(name, 0.0) + x for name, x in theirs.terms.items()}
        return LossMean(terms=terms, count=ours.count + theirs.count)

    def compute(self) -> dict[str, float]:
        """Returns the mean of the sum of the terms, 'total', and of each term."""
        means = {name: float(x[0] / max(self.count[0], 1)) for name, x in self.terms.items()}
        return {'total': sum(means.values()), **means}
