"""The decoder: a context module, then one fusion per skip with finer features."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import ASPP, Projection
from pdl_jax.models.blocks import ConvNorm, LayerOptions, make_fusion
from pdl_jax.models.dense_prediction_cell import CITYSCAPES_CELL, DensePredictionCell, parse_cell
from pdl_jax.models.options import SEMANTIC_BRANCH, BranchOptions, ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class Decoder(nn.Module):
    """Brings the backbone's last features to the stride of the finest skip.

    One class serves the semantic and the instance branch, which share no weights: with two skips it
    is Panoptic-DeepLab's, with one DeepLabv3+'s, with none DeepLabv3.

    Attributes:
      branch: widths of the branch.
      network: the parts that the branches share.
      pool_window: window of the ASPP's pooling, in feature pixels.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3; Chen et al., ECCV 2018
    (DeepLabv3+).
    """

    branch: BranchOptions = SEMANTIC_BRANCH
    network: ModelOptions = ModelOptions()
    pool_window: tuple[int, int] | None = None
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Decodes {'last', 'stride8', ...} to float[B, h, w, D]."""
        network = self.network
        width = self.branch.features
        x = self._make_context()(features['last'], train=train)
        for stride, low_level_width in zip(
            network.skip_strides, self.branch.low_level_features, strict=True
        ):
            key = f'stride{stride}'
            if key not in features:
                raise ValueError(
                    f'model.skip_strides (={network.skip_strides}) asks for {key!r}, which '
                    f'{network.backbone.name!r} at output stride '
                    f'{network.backbone.output_stride} does not have: {sorted(features)}'
                )
            low = ConvNorm(
                low_level_width,
                has_bias=network.has_norm_bias,
                options=self.options,
                name=f'project_{key}',
            )(features[key], train=train)
            x: Array = resize_bilinear(x, low.shape[1:3], network.resize)
            x = jnp.concatenate([low, x] if network.is_skip_first else [x, low], axis=-1)
            fusion = make_fusion(
                network.fusion,
                width,
                width,
                self.options,
                name=f'fuse_{key}',
                has_bias=network.has_norm_bias,
            )
            x = fusion(x, train=train)
        return x

    def _make_context(self) -> nn.Module:
        network = self.network
        if network.context == 'dense_prediction_cell':
            return DensePredictionCell(
                self.branch.aspp_features,
                network.backbone.output_stride,
                parse_cell(network.cell) if network.cell else CITYSCAPES_CELL,
                network.dropout_rate,
                self.options,
                self.pool_window,
                name='dense_prediction_cell',
            )
        if network.context == 'projection':
            return Projection(self.branch.aspp_features, self.options, name='aspp')
        return ASPP(
            self.branch.aspp_features,
            network.aspp_rates,
            network.is_aspp_separable,
            network.has_aspp_depthwise_norm,
            self.pool_window,
            network.aspp_pooling == 'train_grid',
            network.aspp_pool_layer,
            network.dropout_rate,
            network.resize,
            self.options,
            name='aspp',
        )
