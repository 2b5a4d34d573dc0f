"""The decoder: a context module, then as many joins with finer features as the network has."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import ASPP
from pdl_jax.models.blocks import ConvNorm, LayerOptions, make_fusion
from pdl_jax.models.dense_prediction_cell import DensePredictionCell
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class Decoder(nn.Module):
    """Brings the backbone's last features to the stride of the finest feature that it joins.

    One class serves the semantic and the instance branch, which share no weights: with two joins it is Panoptic-DeepLab's, with
    one DeepLabv3+'s, with none DeepLabv3.

    Attributes:
      branch: 'semantic' or 'instance', whose widths of `model` apply.
      model: the network.
      pool_window: of the ASPP, in feature pixels.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3; Chen et al., ECCV 2018 (DeepLabv3+).
    """

    branch: str
    model: ModelOptions
    pool_window: tuple[int, int] | None = None
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Decodes {'last', 'stride8', ...} to float[B, h, w, D]."""
        model = self.model
        width = getattr(model, f'{self.branch}_features')
        x = self._context()(features['last'], train=train)
        low_level_widths = getattr(model, f'{self.branch}_low_level_features')
        for stride, low_level_width in zip(model.skip_strides, low_level_widths, strict=True):
            key = f'stride{stride}'
            if key not in features:
                raise ValueError(
                    f'model.skip_strides (={model.skip_strides}) asks for {key!r}, which {model.backbone!r} at output '
                    f'stride {model.output_stride} does not have: {sorted(features)}'
                )
            low = ConvNorm(low_level_width, options=self.options, name=f'project_{key}')(
                features[key], train=train
            )
            x = resize_bilinear(x, low.shape[1:3], model.resize)
            x = jnp.concatenate([low, x] if model.is_skip_first else [x, low], axis=-1)
            fusion = make_fusion(model.fusion, width, width, self.options, name=f'fuse_{key}')
            x = fusion(x, train=train)
        return x

    def _context(self):
        model = self.model
        width = getattr(model, f'{self.branch}_aspp_features')
        if model.context == 'dense_prediction_cell':
            return DensePredictionCell(
                width,
                model.output_stride,
                dropout_rate=model.dropout_rate,
                options=self.options,
                name='dense_prediction_cell',
            )
        return ASPP(
            width,
            model.aspp_rates,
            model.is_aspp_separable,
            self.pool_window,
            model.aspp_pool_layer,
            model.dropout_rate,
            model.resize,
            self.options,
            name='aspp',
        )
