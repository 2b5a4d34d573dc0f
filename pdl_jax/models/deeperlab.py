"""The network of DeeperLab: an encoder, a decoder at the encoder's stride, and five heads."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import ASPP
from pdl_jax.models.blocks import ConvNorm, LayerOptions, make_fusion
from pdl_jax.models.deeperlab_options import DeeperLabNetworkOptions
from pdl_jax.models.heads import Head
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.ops.keypoints import EDGES, NUM_KEYPOINTS
from pdl_jax.ops.resize import resize_bilinear, upsample_offsets
from pdl_jax.ops.space_to_depth import depth_to_space, space_to_depth
from pdl_jax.typing import Array

# Channels of the maps of offsets: (dy, dx) for each keypoint or edge.
OFFSETS = {'short': 2 * NUM_KEYPOINTS, 'middle': 2 * len(EDGES), 'long': 2 * NUM_KEYPOINTS}


class DeeperLab(nn.Module):
    """Predicts semantic logits, and for instances keypoints and offsets between them.

    Attributes:
      num_classes: semantic logits.
      options: the parts; `presets.make_deeperlab_network` gives those of the paper.
      pool_crop: (height, width) in image pixels of the window that the ASPP averages over, None
        for the whole image.
      dtype: dtype of activations; parameters, BatchNorm statistics and outputs stay float32.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.

    Source: Yang et al., DeeperLab, arXiv 1902.05093.
    """

    num_classes: int
    options: DeeperLabNetworkOptions = DeeperLabNetworkOptions()
    pool_crop: tuple[int, int] | None = None
    dtype: Any = jnp.float32
    freeze_backbone_norm: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool = False) -> dict[str, Array]:
        """Runs the network.

        Args:
          image: f32[B, H, W, 3], normalised as `options.normalization` says.
          train: BatchNorm uses and updates batch statistics, dropout is on (needs an rng
            'dropout').

        Returns:
          At stride 4: 'semantic': f32[B, h, w, C] logits; 'keypoint': f32[B, h, w, K] logits;
          'short' and 'long': f32[B, h, w, 2 K], 'middle': f32[B, h, w, 2 E], pairs (dy, dx) in
          pixels of these maps. `upsample` brings them to the size of the image.
        """
        options = self.options
        features = make_model_backbone(
            options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )(image, train=train)
        layers = LayerOptions(self.dtype, options.norm_momentum, options.norm_epsilon)
        window = None
        if options.aspp_pooling == 'train_crop' and self.pool_crop is not None:
            height, width = ((n - 1) // options.backbone.output_stride + 1 for n in self.pool_crop)
            window = height, width
        context = ASPP(
            options.aspp_features,
            options.aspp_rates,
            options.is_aspp_separable,
            pool_window=window,
            dropout_rate=options.dropout_rate,
            resize=options.resize,
            options=layers,
            name='aspp',
        )(features['last'], train=train)
        x = SpaceToDepthDecoder(options, layers, name='decoder')(
            context, features['stride4'], train=train
        )
        channels = {'semantic': self.num_classes, 'keypoint': NUM_KEYPOINTS, **OFFSETS}
        return {
            output: Head(
                options.head_conv, options.head_features, count, layers, name=f'{output}_head'
            )(x, train=train)
            for output, count in channels.items()
        }

    def upsample(self, outputs: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """Brings outputs to full resolution; needs no variables.

        Args:
          outputs: the result of a call.
          size: (height, width) of the image in pixels.

        Returns:
          The same keys at `size`; offsets in pixels of the image.
        """
        resize = self.options.resize
        return {
            key: (upsample_offsets if key in OFFSETS else resize_bilinear)(x, size, resize)
            for key, x in outputs.items()
        }

    def upsample_instances(
        self, outputs: dict[str, Array], size: tuple[int, int]
    ) -> dict[str, Array]:
        """Brings all but the semantic logits to full resolution like `upsample`."""
        return self.upsample({k: x for k, x in outputs.items() if k != 'semantic'}, size)


class SpaceToDepthDecoder(nn.Module):
    """Joins features of stride 4 with those of the encoder's stride, at the latter.

    Convolutions with many channels on few pixels are quicker than the reverse: the low-level
    features are moved into channels, and what comes out is moved back.
    """

    network: DeeperLabNetworkOptions
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, low_level: Array, *, train: bool) -> Array:
        """Maps float[B, h, w, D] and float[B, 4h, 4w, D'] to float[B, 4h, 4w, N]."""
        network = self.network
        low_level = ConvNorm(network.low_level_features, options=self.options, name='reduce')(
            low_level, train=train
        )
        # The last block of a map with aligned corners, which is 4h - 3 pixels high, holds padding.
        x = jnp.concatenate([x, space_to_depth(low_level, network.block)], axis=-1)
        for i in (1, 2):
            width = network.fusion_features
            conv = make_fusion(network.fusion, width, width, self.options, name=f'conv{i}')
            x = conv(x, train=train)
        return depth_to_space(x, network.block, (low_level.shape[1], low_level.shape[2]))
