"""The backbone of a network, from the network's options."""

from typing import Any, Protocol

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.options import BackboneOptions


class NetworkOptions(Protocol):
    """The options that every network has."""

    @property
    def backbone(self) -> BackboneOptions:
        """The backbone."""
        ...

    @property
    def normalization(self) -> str:
        """The normalisation of pixels, see `preprocess.normalize`."""
        ...


def make_model_backbone(
    options: NetworkOptions,
    dtype: Any = jnp.float32,
    *,
    is_norm_frozen: bool = False,
    name: str | None = None,
) -> nn.Module:
    """Makes the backbone of a network.

    Raises:
      ValueError: there is no such backbone, or it lacks an attribute that the options set.
    """
    backbone = options.backbone
    return make_backbone(
        backbone.name,
        output_stride=backbone.output_stride,
        width_multiplier=backbone.width_multiplier,
        options=LayerOptions(
            dtype, backbone.norm_momentum, backbone.norm_epsilon, backbone.padding, is_norm_frozen
        ),
        name=name,
        stem=backbone.stem,
        stride_convention=backbone.stride_convention,
        multi_grid=backbone.multi_grid,
        endpoints=backbone.endpoints,
        activation=backbone.activation,
        stem_padding=backbone.stem_padding,
        squeeze_excite_gate=backbone.squeeze_excite_gate,
        upsampling=backbone.upsampling,
        drop_path_keep_prob=backbone.drop_path_keep_prob,
        drop_path_schedule=backbone.drop_path_schedule,
        # Backbones without such units have no such attributes.
        adaptive_computation=backbone.adaptive_computation or None,
        min_active_share=backbone.min_active_share or None,
        architecture=backbone.architecture,
    )


# Attributes that decide what a backbone's weights mean, besides their shapes, in the families that
# have them.
_BACKBONE_ATTRIBUTES = (
    'stem',
    'stride_convention',
    'activation',
    'squeeze_excite_gate',
    'upsampling',
    'architecture',
)


def describe_backbone(options: NetworkOptions) -> dict[str, Any]:
    """Lists what the weights of a backbone depend on besides their shapes.

    Returns:
      JSON values: the backbone's name, the normalisation of pixels, epsilon, padding, and where the
      family has them its stem, the place of its strides, its activation, its gates.
    """
    module = make_model_backbone(options)
    return {
        'backbone': options.backbone.name,
        'normalization': options.normalization,
        'norm_epsilon': options.backbone.norm_epsilon,
        'padding': options.backbone.padding,
        **{
            name: value
            for name in _BACKBONE_ATTRIBUTES
            if (value := getattr(module, name, None)) is not None
        },
    }
