"""The Dense Prediction Cell: a searched graph of convolutions and poolings in place of ASPP."""

import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import average_pool
from pdl_jax.models.blocks import ConvNorm, LayerOptions, SeparableConv
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class Branch(NamedTuple):
    """One operation of a cell.

    Attributes:
      source: index of the input branch; -1 for the backbone's features.
      rate: dilation (height, width) at output stride 16 of a 3x3 separable convolution.
      kernel_size: 3, or 1 for a 1x1 convolution.
      grid: (rows, columns) of the windows that an average before a 1x1 convolution takes; None for
        no average.
    """

    source: int
    rate: tuple[int, int] = (1, 1)
    kernel_size: int = 3
    grid: tuple[int, int] | None = None


# The best cell found on Cityscapes; only its first branch reads the wide backbone features.
CITYSCAPES_CELL = (
    Branch(-1, (1, 6)),
    Branch(0, (18, 15)),
    Branch(1, (6, 3)),
    Branch(0, (1, 1)),
    Branch(0, (6, 21)),
)
# A cell may come with a checkpoint.
_MAX_CHARACTERS, _MAX_BRANCHES, _MAX_RATE = 4096, 16, 64


class DensePredictionCell(nn.Module):
    """Branches of a cell, concatenated, with dropout and a projection.

    Attributes:
      features: channels of every branch and of the result.
      output_stride: output stride of the backbone; rates are doubled with every halving below 16.
      cell: branches in order; each reads an earlier one.
      dropout_rate: dropout of the concatenation in training.
      pool_window: (height, width) in feature pixels that a grid divides; None for the whole map.

    Source: Chen et al., Searching for Efficient Multi-Scale Architectures for Dense Image
    Prediction, NeurIPS 2018; TF DeepLab's core/dense_prediction_cell.py.
    """

    features: int
    output_stride: int = 16
    cell: tuple[Branch, ...] = CITYSCAPES_CELL
    dropout_rate: float = 0.1
    options: LayerOptions = LayerOptions()
    pool_window: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        results = []
        for i, branch in enumerate(self.cell):
            _check_source(i, branch.source)
            source = x if branch.source < 0 else results[branch.source]
            results.append(self._apply(branch, source, f'branch_{i}', train=train))
        x = jnp.concatenate(results, axis=-1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return ConvNorm(self.features, options=self.options, name='project')(x, train=train)

    def _apply(self, branch: Branch, x: Array, name: str, *, train: bool) -> Array:
        if branch.grid is None and branch.kernel_size == 3:
            factor = max(1, 16 // self.output_stride)
            rate = (branch.rate[0] * factor, branch.rate[1] * factor)
            layer = SeparableConv(self.features, 3, rate, options=self.options, name=name)
            return layer(x, train=train)
        layer = ConvNorm(self.features, options=self.options, name=name)
        if branch.grid is None:
            return layer(x, train=train)
        size = (x.shape[1], x.shape[2])
        height, width = self.pool_window or size
        window = ((height - 1) // branch.grid[0] + 1, (width - 1) // branch.grid[1] + 1)
        # A window at every pixel where it fits, as in the original.
        return resize_bilinear(layer(average_pool(x, window), train=train), size, 'corner_aligned')


def format_cell(cell: tuple[Branch, ...]) -> str:
    """Writes a cell as the JSON that TF DeepLab's --dense_prediction_cell_json reads."""
    operations = []
    for branch in cell:
        if branch.grid is not None:
            operation: dict[str, Any] = {'op': 'pyramid_pooling', 'grid_size': list(branch.grid)}
        elif branch.kernel_size == 1:
            operation = {'kernel': 1, 'op': 'conv'}
        else:
            operation = {'kernel': 3, 'rate': list(branch.rate), 'op': 'conv'}
        operations.append({**operation, 'input': branch.source})
    return json.dumps(operations)


def parse_cell(text: str) -> tuple[Branch, ...]:
    """Reads a cell from the JSON of TF DeepLab, see `format_cell`.

    Raises:
      ValueError: it is no such JSON, or a branch reads one that is not before it.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f'model.cell has {len(text)} characters: give at most {_MAX_CHARACTERS}')
    try:
        operations = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'model.cell is no JSON: {error}') from error
    if not isinstance(operations, list) or not 0 < len(operations) <= _MAX_BRANCHES:
        raise ValueError(f'model.cell must be a list of 1 to {_MAX_BRANCHES} operations')
    return tuple(_parse_branch(i, operation) for i, operation in enumerate(operations))


def _parse_branch(index: int, operation: Any) -> Branch:
    fields = operation if isinstance(operation, dict) else {}
    kind, kernel, source = (fields.get(key) for key in ('op', 'kernel', 'input'))
    if type(source) is not int:
        raise ValueError(f'model.cell: branch {index} needs an "input", -1 or an earlier branch')
    _check_source(index, source)
    if kind == 'conv' and kernel in (1, [1, 1]):
        return Branch(source, kernel_size=1)
    if kind == 'conv' and kernel in (3, [3, 3]):
        return Branch(source, _parse_pair(index, 'rate', fields))
    if kind == 'pyramid_pooling':
        return Branch(source, grid=_parse_pair(index, 'grid_size', fields))
    raise ValueError(
        f'model.cell: branch {index} must have the "op" "conv" with the "kernel" 1 or 3, or '
        f'"pyramid_pooling"'
    )


def _parse_pair(index: int, key: str, fields: dict[str, Any]) -> tuple[int, int]:
    pair = fields.get(key)
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(type(n) is int and 0 < n <= _MAX_RATE for n in pair)
    ):
        raise ValueError(
            f'model.cell: branch {index} needs a "{key}" of two integers from 1 to {_MAX_RATE}'
        )
    return pair[0], pair[1]


def _check_source(index: int, source: int) -> None:
    if not -1 <= source < index:
        raise ValueError(
            f'branch {index} of the cell reads branch {source}, which is not before it'
        )
