"""Lite R-ASPP, the light semantic decoder of MobileNetV3."""

import flax.linen as nn

from pdl_jax.models.aspp import pool_context
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions
from pdl_jax.models.heads import predict
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array

# Step between pooling windows in feature pixels (rows, columns): a gate can be coarse.
_POOL_STRIDE = (4, 5)


class LRASPP(nn.Module):
    """Last features gated by an image average; the logits of two strides are added.

    Attributes:
      features: channels of the gated features.
      num_classes: number of logits.
      gate: 'hard_sigmoid' of a convolution with bias (TensorFlow) or 'sigmoid' of one without
        (torchvision).
      pool_window: (height, width) of the average in feature pixels; None for the whole map.
      resize: mode of `resize_bilinear`.

    Source: Howard et al., Searching for MobileNetV3, ICCV 2019, section 6.4; TF DeepLab's model.py;
    torchvision.
    """

    features: int
    num_classes: int
    gate: str = 'hard_sigmoid'
    pool_window: tuple[int, int] | None = None
    resize: str = 'corner_aligned'
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> Array:
        """Maps {'last', 'stride8'} to f32[B, H/8, W/8, C]."""
        x = features['last']
        is_hard = self.gate == 'hard_sigmoid'
        pooled = pool_context(self, x, self.pool_window, _POOL_STRIDE)
        gate = Conv(self.features, has_bias=is_hard, options=self.options, name='gate')(pooled)
        gate = nn.hard_sigmoid(gate) if is_hard else nn.sigmoid(gate)
        x = ConvNorm(self.features, options=self.options, name='project')(x, train=train)
        resized_gate: Array = resize_bilinear(gate, x.shape[1:3], self.resize)
        x = x * resized_gate
        low = features['stride8']
        resized: Array = resize_bilinear(x, low.shape[1:3], self.resize)
        x = predict(resized, self.num_classes, self.options, name='predict_last')
        return x + predict(low, self.num_classes, self.options, name='predict_stride8')
