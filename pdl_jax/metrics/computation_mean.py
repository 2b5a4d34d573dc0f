"""Mean computation of a network whose units halt, on whole images and on things and stuff."""

import functools
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pdl_jax.metrics.format_metric import FormatMetric, make_class
from pdl_jax.ops.segments import lookup
from pdl_jax.typing import Array, LabelFormat

_GROUPS = ('Things', 'Stuff')


@struct.dataclass
class ComputationMean(FormatMetric):
    """Adds up computation; use the subclass that `for_network` returns.

    Attributes:
      dense_multiply_adds: those of the network on one image if nothing is skipped.
      skipped: i32[K], positions that were skipped in each of K layers; 64 bits on the host.
      multiply_adds: i32[K], those of each layer at one position; the same in all batches.
      ponder: f32[2], sums over pixels of things and of stuff.
      num_pixels: i32[2], their number; the others are void.
      num_images: i32[].
    """

    skipped: Array | np.ndarray
    multiply_adds: Array | np.ndarray
    ponder: Array | np.ndarray
    num_pixels: Array | np.ndarray
    num_images: Array | np.ndarray

    dense_multiply_adds: ClassVar[int] = 0

    @staticmethod
    def for_network(label_format: LabelFormat, dense_multiply_adds: int) -> type['ComputationMean']:
        """Makes the metric class of a network on images of one size."""
        return make_class(
            ComputationMean, label_format=label_format, dense_multiply_adds=dense_multiply_adds
        )

    @classmethod
    def empty(cls) -> 'ComputationMean':
        """Returns 64-bit zeros, to sum batches on the host."""
        zero = np.zeros((), np.int64)
        return cls(zero, zero, np.zeros(2), np.zeros(2, np.int64), zero)

    @classmethod
    def from_model_output(
        cls, *, computation: Any, input_labels: Array, valid: Array, **_: Any
    ) -> 'ComputationMean':
        """Takes a batch.

        Args:
          computation: a `systems.computation.Computation`.
          input_labels: i32[B, H, W], the label maps at the size of its ponder map.
          valid: bool[B], false for images that pad the batch.
        """
        label_format = cls.format()
        semantic = input_labels // label_format.label_divisor
        table = jnp.asarray(label_format.thing_table(), jnp.int32)
        is_thing = jax.vmap(functools.partial(lookup, table))(semantic) > 0
        is_labelled = (semantic != label_format.ignore_label) & valid[:, None, None]
        masks = [is_labelled & is_thing, is_labelled & ~is_thing]
        ponder = computation.ponder
        return cls(
            skipped=jnp.sum(jnp.where(valid[:, None], computation.skipped, 0), axis=0),
            multiply_adds=computation.multiply_adds,
            ponder=jnp.stack([jnp.sum(jnp.where(mask, ponder, 0.0)) for mask in masks]),
            num_pixels=jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in masks]),
            num_images=jnp.sum(valid, dtype=jnp.int32),
        )

    # pyright cannot tell that the type variable of `Metric.merge` is the class itself.
    def merge(self, other: Self) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds two sums, which must not be on a device."""
        ours, theirs = self.to_host(), other.to_host()
        return type(self)(
            skipped=ours.skipped + theirs.skipped,
            multiply_adds=theirs.multiply_adds,
            ponder=ours.ponder + theirs.ponder,
            num_pixels=ours.num_pixels + theirs.num_pixels,
            num_images=ours.num_images + theirs.num_images,
        )

    def compute(self) -> dict[str, Any]:
        """Returns means over images: 'flops' and 'dense_flops', 2 for a multiply-add.

        'ponder' has the mean over the pixels of 'Things' and of 'Stuff', None without any.
        """
        sums = self.host_sums()
        num_images = max(int(sums['num_images']), 1)
        skipped = int(np.sum(sums['skipped'] * sums['multiply_adds'])) / num_images
        pixels = zip(_GROUPS, sums['ponder'], sums['num_pixels'], strict=True)
        return {
            'flops': 2 * (self.dense_multiply_adds - skipped),
            'dense_flops': 2 * self.dense_multiply_adds,
            'ponder': {name: float(x / n) if n else None for name, x, n in pixels},
        }
