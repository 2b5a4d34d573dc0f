"""Image classification on a backbone, the network that ImageNet weights were trained with."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.backbones.cifar_resnet import leaky_relu
from pdl_jax.models.backbones.hrnet import HRNetHead
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions, batch_norm
from pdl_jax.models.heads import predict
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.pooling import adaptive_average_pool
from pdl_jax.typing import Array

# Channels of the layer between pooling and logits, by the start of the backbone's name.
_MOBILE_V3_FEATURES = {'mobilenet_v3_large': 1280, 'mobilenet_v3_small': 1024}


class Classifier(nn.Module):
    """A backbone, the last layers of its family, a global average and the logits.

    Attributes:
      num_classes: number of logits.
      options: the parts; its decoder is 'classifier'.
      dtype: dtype of activations.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.

    Source: torchvision, TF-slim (Xception) and the code of the HRNet and SACT authors.
    """

    num_classes: int
    options: ModelOptions
    dtype: Any = jnp.float32
    freeze_backbone_norm: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool = False) -> Array:
        """Maps f32[B, H, W, 3] to logits f32[B, C]; dropout in training needs an rng 'dropout'."""
        name = self.options.backbone.name
        backbone = make_model_backbone(
            self.options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )
        features = backbone(image, train=train)
        drop = nn.Dropout(self.options.dropout_rate, deterministic=not train)
        layers = LayerOptions(self.dtype, self.options.norm_momentum, self.options.norm_epsilon)
        x = features['last']
        if name in ('mobilenet_v2', 'mobilenet_v2_5x5'):
            x = ConvNorm(1280, activation=nn.relu6, options=layers, name='last')(x, train=train)
        if name.startswith('hrnet'):
            x = HRNetHead(options=layers, name='head')(features, train=train)
        if name.startswith('vgg'):
            x = adaptive_average_pool(x, 7)
            x = x.reshape(x.shape[0], 1, 1, -1)
            for layer in ('fc6', 'fc7'):
                x = drop(nn.relu(Conv(4096, has_bias=True, options=layers, name=layer)(x)))
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        if name.startswith('convnext'):
            x = nn.LayerNorm(epsilon=1e-6, name='norm')(x)
        if name.startswith('cifar_resnet'):
            x = leaky_relu(batch_norm(layers, train=train)(x))
        for family, width in _MOBILE_V3_FEATURES.items():
            if name.startswith(family):
                activation = nn.relu if name.endswith('minimalistic') else nn.hard_swish
                x = activation(Conv(width, has_bias=True, options=layers, name='last')(x))
        if not name.startswith('vgg'):
            x = drop(x)
        return predict(x, self.num_classes, layers, name='predict')[:, 0, 0]
