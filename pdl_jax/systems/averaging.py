"""The interface of averages over several passes of a network."""

import abc

from jax.typing import ArrayLike

from pdl_jax.typing import Array

Outputs = dict[str, Array]


class Averaging(abc.ABC):
    """The average of full-size outputs over several passes."""

    @abc.abstractmethod
    def mirror(self, outputs: Outputs, is_flipped: ArrayLike) -> Outputs:
        """Brings outputs for the mirror image back, where `is_flipped` (bool[]) holds."""

    @abc.abstractmethod
    def to_mean(self, outputs: Outputs) -> Outputs:
        """Brings outputs to the form whose arithmetic mean makes sense, such as probabilities."""

    @abc.abstractmethod
    def from_mean(self, outputs: Outputs) -> Outputs:
        """Brings means back to the form of outputs."""
