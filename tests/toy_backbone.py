"""A backbone that compiles in no time, which configurations name as code of the user's own."""

import jax
from flax import linen as nn

from pdl_jax.models.blocks import ConvNorm, LayerOptions
from pdl_jax.runtime.own_code import import_own_code

NAME = f'{__name__}:make_backbone'


class ToyBackbone(nn.Module):
    """Strided convolutions, one per octave."""

    output_stride: int = 32
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Maps f32[B, H, W, D] to {'stride2', 'stride4', ..., 'last'}."""
        features = {}
        for i in range(1, self.output_stride.bit_length()):
            x = ConvNorm(8, 3, 2, options=self.options, name=f'conv_{i}')(x, train=train)
            features[f'stride{2**i}'] = x
        return {**features, 'last': x}


def make_backbone(*, name: str, output_stride: int, options: LayerOptions, **_) -> nn.Module:
    """Makes one of the attributes that every configuration of the tests sets."""
    return ToyBackbone(name=name, output_stride=output_stride, options=options)


def allow_toy_backbone() -> None:
    """Imports it as a command imports what its configuration names."""
    import_own_code([('config.model.backbone', NAME)])
