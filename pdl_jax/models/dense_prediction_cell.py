"""The Dense Prediction Cell: a searched graph of separable convolutions in place of ASPP."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.blocks import ConvNorm, LayerOptions, SeparableConv
from pdl_jax.typing import Array


class Branch(NamedTuple):
    """One 3x3 separable convolution of a cell.

    Attributes:
      source: index of the input branch; -1 for the backbone's features.
      rate: dilation (height, width) at output stride 16.
    """

    source: int
    rate: tuple[int, int]


# The best cell found on Cityscapes; only its first branch reads the wide backbone features.
CITYSCAPES_CELL = (
    Branch(-1, (1, 6)),
    Branch(0, (18, 15)),
    Branch(1, (6, 3)),
    Branch(0, (1, 1)),
    Branch(0, (6, 21)),
)


class DensePredictionCell(nn.Module):
    """Branches of a cell, concatenated, with dropout and a projection.

    Attributes:
      features: channels of every branch and of the result.
      output_stride: output stride of the backbone; rates are doubled with every halving below 16.
      cell: branches in order; each reads an earlier one.
      dropout_rate: dropout of the concatenation in training.

    Source: Chen et al., Searching for Efficient Multi-Scale Architectures for Dense Image
    Prediction, NeurIPS 2018; TF DeepLab's core/dense_prediction_cell.py.
    """

    features: int
    output_stride: int = 16
    cell: tuple[Branch, ...] = CITYSCAPES_CELL
    dropout_rate: float = 0.1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        factor = max(1, 16 // self.output_stride)
        results = []
        for i, branch in enumerate(self.cell):
            if not -1 <= branch.source < i:
                raise ValueError(
                    f'branch {i} of the cell reads branch {branch.source}, which is not before it'
                )
            source = x if branch.source < 0 else results[branch.source]
            rate = (branch.rate[0] * factor, branch.rate[1] * factor)
            layer = SeparableConv(self.features, 3, rate, options=self.options, name=f'branch_{i}')
            results.append(layer(source, train=train))
        x = jnp.concatenate(results, axis=-1)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return ConvNorm(self.features, options=self.options, name='project')(x, train=train)
