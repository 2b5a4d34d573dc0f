"""The network of kMaX-DeepLab: pixel encoder and decoder, queries, masks and classes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.aspp import ASPP
from pdl_jax.models.blocks import ACTIVATIONS, LayerOptions
from pdl_jax.models.heads import predict
from pdl_jax.models.kmax_options import KMaXNetworkOptions
from pdl_jax.models.kmeans_decoder import KMeansLayer
from pdl_jax.models.mask_predictor import learn_queries, predict_masks
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import SEMANTIC_BRANCH
from pdl_jax.models.pixel_decoder import PixelDecoder, resize_mode
from pdl_jax.models.semantic_branch import ASPP_RATES, predict_semantic
from pdl_jax.typing import Array


class KMaXDeepLab(nn.Module):
    """Predicts masks and their classes by queries, the centres of clusters of pixels.

    Attributes:
      num_classes: classes, void excluded.
      options: the parts; presets have those of the published networks.
      dtype: dtype of activations; parameters, BatchNorm statistics and outputs stay float32.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022; Sun et al., ReMaX, NeurIPS 2023.
    """

    num_classes: int
    options: KMaXNetworkOptions = KMaXNetworkOptions()
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
          'mask_logits': f32[B, h, w, N] and 'class_logits': f32[B, N, K + 1], void last. With
          `with_auxiliary` also 'pixel_feature': f32[B, h, w, D] of unit length; 'auxiliary': these
          three of every layer of the transformer decoder, at its own stride, and 'semantic_logits'
          f32[B, h', w', K + 1] of those that ReMask relaxes; 'semantic': f32[B, h', w', C], the
          logits of the semantic branch, if there is one.
        """
        options = self.options
        # Variables for training exist from the start.
        with_auxiliary |= self.is_initializing()
        layers = LayerOptions(
            self.dtype, options.norm_momentum, options.norm_epsilon, activation=ACTIVATIONS['gelu']
        )
        features = make_model_backbone(
            options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )(image, train=train)
        decoder = PixelDecoder(options.stages, options.resize, layers, name='pixel_decoder')
        maps = decoder(
            [self._find_input(features, key) for key in options.decoder_inputs], train=train
        )

        queries = learn_queries(
            self, options.num_queries, options.query_features, image.shape[0], self.dtype
        )
        auxiliary = []
        for x, depth in zip(maps, options.transformer_depths, strict=False):
            for _ in range(depth):
                number = len(auxiliary) + 1
                queries, prediction = self._make_layer(layers, number)(x, queries, train=train)
                if with_auxiliary and number <= options.num_relaxed_layers:
                    head = _RelaxingHead(
                        self.num_classes + 1,
                        options.dropout_rate,
                        layers,
                        name=f'layer{number}_semantic',
                    )
                    prediction['semantic_logits'] = head(x, train=train)
                auxiliary.append(prediction)
        outputs: dict[str, Any] = predict_masks(
            maps[-1], queries, self.num_classes, options.mask_features, layers, train=train
        )
        if not with_auxiliary:
            del outputs['pixel_feature']
            return outputs
        outputs['auxiliary'] = auxiliary
        if options.semantic_branch != 'none':
            outputs['semantic'] = self._semantic(features, layers, train)
        return outputs

    def _find_input(self, features: Any, key: str) -> Array:
        if not isinstance(features, dict) or key not in features:
            found = sorted(features) if isinstance(features, dict) else type(features).__name__
            raise ValueError(
                f'model.decoder_inputs (={self.options.decoder_inputs}) asks for {key!r}, which '
                f'{self.options.backbone.name!r} does not have: {found}'
            )
        return features[key]

    def _make_layer(self, layers: LayerOptions, number: int) -> KMeansLayer:
        options = self.options
        return KMeansLayer(
            self.num_classes,
            options.query_features,
            options.mask_features,
            options.ffn_features,
            options.num_heads,
            options.transformer_keep_prob,
            layers,
            name=f'layer{number}',
        )

    def _semantic(self, features: dict[str, Array], layers: LayerOptions, train: bool) -> Array:
        """Runs the semantic branch: Panoptic-DeepLab's, with this network's activation."""
        options = self.options
        coarse = features[options.decoder_inputs[0]]
        if options.semantic_skip_activation:
            activate = ACTIVATIONS[options.semantic_skip_activation]
            features = {key: activate(x) for key, x in features.items()}
        return predict_semantic(
            {**features, 'last': coarse},
            self.num_classes + int(options.has_void_logit),
            layers,
            resize=resize_mode(options.resize, coarse.shape[2]),
            dropout_rate=options.dropout_rate,
            has_decoder=options.semantic_branch == 'decoder',
            train=train,
        )


class _RelaxingHead(nn.Module):
    """The semantic head of one layer, whose logits ReMask relaxes the layer's masks by.

    Source: Sun et al., ReMaX, NeurIPS 2023.
    """

    num_outputs: int
    dropout_rate: float
    options: LayerOptions

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        aspp = ASPP(
            SEMANTIC_BRANCH.aspp_features,
            ASPP_RATES,
            dropout_rate=self.dropout_rate,
            options=self.options,
            name='aspp',
        )
        return predict(aspp(x, train=train), self.num_outputs, self.options, name='predict')
