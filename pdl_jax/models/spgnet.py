"""SPGNet: encoder-decoders in a row, each guided by the semantic prediction of the one before."""

import dataclasses
from typing import cast

import flax.linen as nn
import jax

from pdl_jax.models.aspp import pool_context
from pdl_jax.models.backbones.residual_units import Bottleneck
from pdl_jax.models.backbones.resnet import ResNet
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions, UnitFeatures
from pdl_jax.models.heads import predict
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array

# The scales of encoders and decoders, coarse to fine.
_STRIDES = (32, 16, 8, 4)


class SPGStages(nn.Module):
    """The decoder of the first stage, and the stages after it.

    The backbone is the first encoder. Each later one has its residual stages but no stem: it begins
    at stride 4 with the features that the guidance module has weighted, and at every scale adds
    those of the encoder and the decoder before it (cross-stage aggregation).

    No program was published. The width of the decoders (256, as wide as the first stage of
    ResNet-50), one residual unit per scale, and aggregation before the activation of an encoder's
    last unit of a scale are choices. Later encoders start from random weights.

    Attributes:
      num_classes: logits.
      network: the parts; a ResNet with max-pool at output stride 32.
      is_norm_frozen: whether BatchNorm of the later encoders uses its stored statistics too.

    Source: Cheng et al., SPGNet, ICCV 2019; aggregation of Li et al., MSPN, arXiv 1901.00148.
    """

    num_classes: int
    network: ModelOptions
    options: LayerOptions = LayerOptions()
    is_norm_frozen: bool = False

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> dict[str, Array]:
        """Computes logits at stride 4.

        Args:
          features: the backbone's.
          train: see `blocks.batch_norm`.

        Returns:
          'semantic': f32[B, h, w, C] and, in training, 'semantic_stage1', ... of the stages before
          the last, which are supervised too.
        """
        network = self.network
        width = network.semantic.features
        outputs = {}
        for stage in range(1, network.num_stages + 1):
            decoded = SPGDecoder(width, network.resize, self.options, name=f'decoder{stage}')(
                features, train=train
            )
            if stage == network.num_stages:
                break
            guided, semantic = SemanticGuidance(
                self.num_classes, network.guidance, self.options, name=f'guidance{stage}'
            )(decoded['stride4'])
            if train:
                outputs[f'semantic_stage{stage}'] = semantic
            features = self._encode(stage + 1, guided, features, decoded, train)
        semantic = predict(decoded['stride4'], self.num_classes, self.options, name='predict')
        return {'semantic': semantic, **outputs}

    def _encode(
        self,
        stage: int,
        x: Array,
        encoded: dict[str, Array],
        decoded: dict[str, Array],
        train: bool,
    ) -> dict[str, Array]:
        backbone = dataclasses.replace(self.network.backbone, stem='none')
        encoder = cast(
            ResNet,
            make_model_backbone(
                dataclasses.replace(self.network, backbone=backbone),
                self.options.dtype,
                is_norm_frozen=self.is_norm_frozen,
                name=f'encoder{stage}',
            ),
        )

        # The encoders have the same widths. Not inside `aggregate`, which the encoder calls, or the
        # projections would be its variables.
        added = {
            stride: sum(
                ConvNorm(
                    encoded[f'stride{stride}'].shape[-1],
                    activation=None,
                    options=self.options,
                    name=f'{kind}{stage}_stride{stride}',
                )(before[f'stride{stride}'], train=train)
                for kind, before in (('encoded', encoded), ('decoded', decoded))
            )
            for stride in encoder.last_units.values()
        }

        def aggregate(unit: str, x: Array) -> Array:
            return x + added[encoder.last_units[unit]] if unit in encoder.last_units else x

        return encoder(x, train=train, refine=aggregate)


class SPGDecoder(nn.Module):
    """Brings the last features of an encoder up to stride 4.

    Attributes:
      width: channels of every scale, a multiple of 4.
      resize: see `ops.resize`.
    """

    width: int
    resize: str
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, features: dict[str, Array], *, train: bool) -> dict[str, Array]:
        """Maps {'stride4', ..., 'stride32'} to features of the same scales, all of `width`."""

        def project(x: Array, name: str) -> Array:
            return ConvNorm(self.width, options=self.options, name=name)(x, train=train)

        top = features[f'stride{_STRIDES[0]}']
        context = project(pool_context(self, top, None), 'pool')
        x = project(top, f'project_stride{_STRIDES[0]}') + context
        decoded = {f'stride{_STRIDES[0]}': x}
        for stride in _STRIDES[1:]:
            skip = project(features[f'stride{stride}'], f'project_stride{stride}')
            x: Array = resize_bilinear(x, (skip.shape[1], skip.shape[2]), self.resize)
            x = x + skip
            unit = Bottleneck(
                self.width // 4, 1, 1, options=self.options, name=f'unit_stride{stride}'
            )
            x = cast(UnitFeatures, unit(x, train=train)).activated
            decoded[f'stride{stride}'] = x
        return decoded


class SemanticGuidance(nn.Module):
    """Weighs features by a gate of their own semantic prediction: x (1 + sigmoid(conv(P(x)))).

    The prediction is supervised, so the gate knows classes (the paper's Supervise-and-Excite).

    Attributes:
      num_classes: logits.
      guidance: the gate sees 'logits' or their 'softmax'.
    """

    num_classes: int
    guidance: str = 'logits'
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps float[B, h, w, D] to the same and to logits f32[B, h, w, C]."""
        semantic = predict(x, self.num_classes, self.options, name='semantic')
        seen = jax.nn.softmax(semantic) if self.guidance == 'softmax' else semantic
        gate = Conv(x.shape[-1], has_bias=True, options=self.options, name='gate')(seen)
        return x + x * nn.sigmoid(gate), semantic
