"""The light decoder: ASPP, then two fusions with finer features."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import ASPP
from pdl_jax.models.blocks import ConvNorm, LayerOptions, SeparableConv
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """One branch's decoder.

    Attributes:
      features: channels after each fusion.
      low_level_features: channels of the projected stride-8 and stride-4 features.
      aspp_features: channels of the ASPP.
    """

    features: int = 256
    low_level_features: tuple[int, int] = (64, 32)
    aspp_features: int = 256


class Decoder(nn.Module):
    """Brings the backbone's last features back to stride 4.

    One class serves the semantic and the instance branch; they share no weights.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020, section 3; widths of DeepLab2.
    """

    decoder: DecoderOptions
    rates: tuple[int, ...]
    pool_window: tuple[int, int] | None = None
    dropout_rate: float = 0.1
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Decodes {'last', 'stride8', 'stride4'} to float[B, H/4, W/4, features]."""
        x = ASPP(
            self.decoder.aspp_features,
            self.rates,
            self.pool_window,
            self.dropout_rate,
            self.options,
            name='aspp',
        )(features['last'], train=train)
        for key, width in zip(('stride8', 'stride4'), self.decoder.low_level_features, strict=True):
            low = ConvNorm(width, options=self.options, name=f'project_{key}')(
                features[key], train=train
            )
            x = jnp.concatenate([resize_bilinear(x, low.shape[1:3]), low], axis=-1)
            x = SeparableConv(self.decoder.features, options=self.options, name=f'fuse_{key}')(
                x, train=train
            )
        return x
