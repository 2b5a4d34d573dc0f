"""Panoptic-DeepLab: backbone, two decoders, three heads."""

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.decoder import Decoder, DecoderOptions
from pdl_jax.models.heads import Head
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class PanopticDeepLab(nn.Module):
    """Predicts semantic logits, an instance-centre heatmap and offsets to centres for every pixel.

    Attributes:
      num_classes: semantic logits.
      backbone: a name of `backbones.BACKBONES`.
      output_stride: of the backbone; 8, 16 or 32.
      width_multiplier: of the backbone.
      aspp_rates: dilations of both ASPPs.
      pool_window: of both ASPPs in feature pixels; see `aspp.ASPP`.
      dropout_rate: after both ASPPs.
      semantic_decoder: widths of the semantic branch.
      instance_decoder: widths of the instance branch.
      semantic_head_features: channels before the logits.
      instance_head_features: channels before centre and offset.
      options: shared by all layers.
      backbone_options: for the layers of the backbone, by default `options`.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020; exact layers of DeepLab2.
    """

    num_classes: int
    backbone: str = 'resnet50'
    output_stride: int = 32
    width_multiplier: float = 1.0
    aspp_rates: tuple[int, ...] = (3, 6, 9)
    pool_window: tuple[int, int] | None = None
    dropout_rate: float = 0.1
    semantic_decoder: DecoderOptions = DecoderOptions()
    instance_decoder: DecoderOptions = DecoderOptions(128, (32, 16), 256)
    semantic_head_features: int = 256
    instance_head_features: int = 32
    options: LayerOptions = LayerOptions()
    backbone_options: LayerOptions | None = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool = False) -> dict[str, Array]:
        """Runs the network.

        Args:
          image: f32[B, H, W, 3] in [-1, 1].
          train: BatchNorm uses and updates batch statistics, dropout is on (needs an rng 'dropout').

        Returns:
          {'semantic': f32[B, h, w, C], 'center': f32[B, h, w, 1], 'offset': f32[B, h, w, 2]} at stride 4;
          `upsample_outputs` brings them to the size of the image. Offsets are (dy, dx) in pixels of the stride-4 map.
        """
        features = make_backbone(
            self.backbone,
            output_stride=self.output_stride,
            width_multiplier=self.width_multiplier,
            options=self.backbone_options or self.options,
            name='backbone',
        )(image, train=train)

        def decode(options, name):
            return Decoder(
                options,
                self.aspp_rates,
                self.pool_window,
                self.dropout_rate,
                self.options,
                name=name,
            )(features, train=train)

        def predict(x, width, outputs, name):
            return Head(width, outputs, self.options, name=name)(x, train=train)

        semantic = decode(self.semantic_decoder, 'semantic_decoder')
        instance = decode(self.instance_decoder, 'instance_decoder')
        width = self.instance_head_features
        return {
            'semantic': predict(
                semantic, self.semantic_head_features, self.num_classes, 'semantic_head'
            ),
            'center': predict(instance, width, 1, 'center_head'),
            'offset': predict(instance, width, 2, 'offset_head'),
        }


def upsample_outputs(outputs: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
    """Brings the heads' outputs to full resolution, corners aligned.

    Offsets are first scaled per axis by (out - 1) / (in - 1), the ratio of the two pixel grids.

    Args:
      outputs: of `PanopticDeepLab`.
      size: (height, width) of the image in pixels.

    Returns:
      The same keys at `size`; offsets in pixels of the image.
    """
    height, width = outputs['offset'].shape[1:3]
    scale = jnp.array(
        [(size[0] - 1) / max(height - 1, 1), (size[1] - 1) / max(width - 1, 1)], jnp.float32
    )
    outputs = {**outputs, 'offset': outputs['offset'] * scale}
    return {key: resize_bilinear(value, tuple(size)) for key, value in outputs.items()}
