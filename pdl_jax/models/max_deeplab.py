"""The network of MaX-DeepLab-S: a pixel path and a path of queries, masks and classes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.dual_path import DualPathLayer
from pdl_jax.models.mask_predictor import learn_queries, predict_masks
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.pixel_decoder import ResidualBlock, ResizedFusion
from pdl_jax.models.semantic_branch import predict_semantic
from pdl_jax.typing import Array


class MaXDeepLab(nn.Module):
    """Predicts masks and their classes by queries that read pixels and are read by them.

    Attributes:
      num_classes: classes, void excluded.
      options: the parts.
      dtype: dtype of activations; parameters, BatchNorm statistics and outputs stay float32.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.

    Source: Wang et al., MaX-DeepLab, CVPR 2021; DeepLab2's model/encoder/axial_resnet.py.
    """

    num_classes: int
    options: MaXNetworkOptions = MaXNetworkOptions()
    dtype: Any = jnp.float32
    freeze_backbone_norm: bool = False

    @nn.compact
    def __call__(
        self, image: Array, *, train: bool = False, with_auxiliary: bool = False
    ) -> dict[str, Any]:
        """Runs the network.

        Args:
          image: f32[B, H, W, 3], normalised as `options.normalization` says.
          train: BatchNorm uses and updates batch statistics, dropout is on (needs an rng
            'dropout').
          with_auxiliary: compute what only training reads.

        Returns:
          'mask_logits': f32[B, h, w, N] and 'class_logits': f32[B, N, K + 1], void last, at stride
          4. With `with_auxiliary` also 'pixel_feature': f32[B, h, w, D] of unit length;
          'semantic': f32[B, h, w, K + 1], the logits of a semantic branch; 'auxiliary', which is
          empty: only the last queries predict.
        """
        with_auxiliary |= self.is_initializing()
        options = self.options
        layers = LayerOptions(self.dtype, options.norm_momentum, options.norm_epsilon)
        queries = learn_queries(
            self, options.num_queries, options.query_features, image.shape[0], self.dtype
        )
        features, queries = self._encode(image, queries, layers, train)
        pixels, queries = self._decode(features, queries, layers, train)

        outputs: dict[str, Any] = predict_masks(
            pixels, queries, self.num_classes, options.mask_features, layers, train=train
        )
        if not with_auxiliary:
            del outputs['pixel_feature']
            return outputs
        outputs['auxiliary'] = []
        outputs['semantic'] = predict_semantic(
            {key: layers.activation(x) for key, x in features.items()},
            self.num_classes + 1,
            layers,
            resize=options.resize,
            dropout_rate=options.dropout_rate,
            has_decoder=True,
            train=train,
        )
        return outputs

    def _encode(
        self, image: Array, queries: Array, layers: LayerOptions, train: bool
    ) -> tuple[dict[str, Array], Array]:
        """Runs the backbone, whose last stage exchanges with the queries after each unit."""
        backbone = make_model_backbone(
            self.options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )
        if not isinstance(backbone, ResNet):
            raise ValueError(
                f'model.backbone (={self.options.backbone.name!r}) must be a ResNet for queries to '
                f'exchange with its pixels'
            )
        exchanges = {
            f'stage5_block{i}': self._make_exchange(f'exchange{i}', layers)
            for i in range(1, backbone.block_counts[-1] + 1)
        }

        def refine(unit: str, pixels: Array) -> Array:
            nonlocal queries
            if unit in exchanges:
                pixels, queries = exchanges[unit](pixels, queries, train=train)
            return pixels

        return backbone(image, train=train, refine=refine), queries

    def _decode(
        self, features: dict[str, Array], queries: Array, layers: LayerOptions, train: bool
    ) -> tuple[Array, Array]:
        """Runs one more exchange, and the decoder to stride 4."""
        x = features['last']
        block = ResidualBlock('axial', x.shape[-1] // 4, layers, name='extra_block')
        exchange = self._make_exchange('extra_exchange', layers)
        x, queries = exchange(block(x, train=train), queries, train=train)
        for i, key in enumerate(('stride8', 'stride4'), 1):
            fine = features[key]
            width = fine.shape[-1]
            x = ResizedFusion(width, self.options.resize, layers, name=f'fusion{i}')(
                x, fine, train=train
            )
            x = ResidualBlock('bottleneck', width // 4, layers, name=f'decoder_block{i}')(
                x, train=train
            )
        return layers.activation(x), queries

    def _make_exchange(self, name: str, layers: LayerOptions) -> DualPathLayer:
        options = self.options
        return DualPathLayer(
            options.query_features,
            options.ffn_features,
            options.num_heads,
            options.transformer_keep_prob,
            layers,
            name=name,
        )
