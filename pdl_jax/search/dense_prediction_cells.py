"""The search space of the Dense Prediction Cell: an operation and an input for each branch."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from pdl_jax.models.dense_prediction_cell import Branch, format_cell, parse_cell
from pdl_jax.search.space import Decision, choose_values

_RATES = (1, 3, 6, 9, 12, 15, 18, 21)
_GRIDS = (1, 2, 4, 8)


def _list_operations() -> tuple[Branch, ...]:
    """Lists the 81 operations as branches without an input of their own."""
    return (
        Branch(-1, kernel_size=1),
        *(Branch(-1, rate) for rate in itertools.product(_RATES, _RATES)),
        *(Branch(-1, grid=grid) for grid in itertools.product(_GRIDS, _GRIDS)),
    )


class CellSpace(NamedTuple):
    """Cells of some branches, each of which reads the features or an earlier branch.

    A branch is a 1x1 convolution, a separable 3x3 one with a dilation of 1 to 21 per axis, or an
    average over 1 to 8 windows per axis. With five branches there are 5! * 81^5 = 4.2e11 cells.

    Attributes:
      num_branches: branches of a cell.

    Source: Chen et al., Searching for Efficient Multi-Scale Architectures for Dense Image
    Prediction, NeurIPS 2018, section 3.2.
    """

    num_branches: int = 5

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """See `SearchSpace.decisions`; two per branch."""
        return _list_decisions(self.num_branches)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `SearchSpace.decode`; in the JSON of TF DeepLab."""
        values = choose_values(self, tokens)
        pairs = zip(values[::2], values[1::2], strict=True)
        return format_cell(tuple(operation._replace(source=source) for operation, source in pairs))

    def encode(self, architecture: str) -> tuple[int, ...]:
        """See `SearchSpace.encode`."""
        cell = parse_cell(architecture)
        if len(cell) != self.num_branches:
            raise ValueError(
                f'the cell has {len(cell)} branches, those of the space {self.num_branches}'
            )
        tokens = []
        for i, branch in enumerate(cell):
            operation = branch._replace(source=-1)
            choices = self.decisions[2 * i].values
            if operation not in choices:
                raise ValueError(f'branch {i} of the cell is no operation of the space: {branch}')
            tokens += [choices.index(operation), branch.source + 1]
        return tuple(tokens)


@functools.cache
def _list_decisions(num_branches: int) -> tuple[Decision, ...]:
    operations = _list_operations()
    return tuple(
        decision
        for i in range(num_branches)
        for decision in (
            Decision(f'branch {i}: operation', operations),
            Decision(f'branch {i}: input', tuple(range(-1, i))),
        )
    )
