"""Panoptic-DeepLab, and without its instance branch the semantic DeepLabs: backbone, decoders, heads."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.decoder import Decoder
from pdl_jax.models.heads import Head
from pdl_jax.models.lr_aspp import LRASPP
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class PanopticDeepLab(nn.Module):
    """Predicts semantic logits and, with its instance branch, an instance-centre heatmap and offsets to centres.

    Attributes:
      num_classes: semantic logits.
      model: what it is made of; `presets.make_options` gives those of the papers and programs.
      pool_crop: (height, width) in image pixels of the window that the ASPP averages over, None for the whole image.
      dtype: of activations; parameters, BatchNorm statistics and outputs stay float32.
      is_backbone_norm_frozen: the backbone's BatchNorm uses its stored statistics in training too.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020.
    """

    num_classes: int
    model: ModelOptions = ModelOptions()
    pool_crop: tuple[int, int] | None = None
    dtype: Any = jnp.float32
    is_backbone_norm_frozen: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool = False) -> dict[str, Array]:
        """Runs the network.

        Args:
          image: f32[B, H, W, 3], normalised as `model.normalization` says.
          train: BatchNorm uses and updates batch statistics, dropout is on (needs an rng 'dropout').

        Returns:
          'semantic': f32[B, h, w, C] logits and, where there is an instance branch, 'center': f32[B, h, w, 1] and 'offset':
          f32[B, h, w, 2], (dy, dx) in pixels of these maps, at the stride of the finest skip. `upsample` brings them to
          the size of the image.
        """
        model = self.model
        features = make_model_backbone(
            model, self.dtype, is_norm_frozen=self.is_backbone_norm_frozen, name='backbone'
        )(image, train=train)
        options = LayerOptions(self.dtype, model.norm_momentum, model.norm_epsilon)
        window = None
        if model.aspp_pooling == 'train_crop' and self.pool_crop is not None:
            window = tuple((n - 1) // model.output_stride + 1 for n in self.pool_crop)

        if model.decoder == 'lr_aspp':
            semantic = LRASPP(
                model.semantic_aspp_features,
                self.num_classes,
                model.lr_aspp_gate,
                window,
                model.resize,
                options,
                name='semantic_decoder',
            )(features, train=train)
            return {'semantic': semantic}

        def decode(branch):
            return Decoder(branch, model, window, options, name=f'{branch}_decoder')(
                features, train=train
            )

        def predict(x, kind, width, outputs, name):
            return Head(kind, width, outputs, options, name=name)(x, train=train)

        semantic = predict(
            decode('semantic'),
            model.semantic_head,
            model.semantic_head_features,
            self.num_classes,
            'semantic_head',
        )
        if not model.has_instances:
            return {'semantic': semantic}
        instance = decode('instance')
        width = model.instance_head_features
        return {
            'semantic': semantic,
            'center': predict(instance, model.center_head, width, 1, 'center_head'),
            'offset': predict(instance, model.offset_head, width, 2, 'offset_head'),
        }

    def upsample(self, outputs: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """Brings outputs to full resolution; needs no variables.

        Offsets are first scaled per axis by the ratio of the two pixel grids: (out - 1) / (in - 1) where corners are aligned,
        out / in where pixel centres are.

        Args:
          outputs: of a call.
          size: (height, width) of the image in pixels.

        Returns:
          The same keys at `size`; offsets in pixels of the image.
        """
        if 'offset' in outputs:
            shrink = 1 if self.model.resize == 'corner_aligned' else 0
            scale = [
                (large - shrink) / max(small - shrink, 1)
                for large, small in zip(size, outputs['offset'].shape[1:3], strict=True)
            ]
            outputs = {**outputs, 'offset': outputs['offset'] * jnp.array(scale, jnp.float32)}
        return {
            key: resize_bilinear(value, tuple(size), self.model.resize)
            for key, value in outputs.items()
        }

    def upsample_instances(
        self, outputs: dict[str, Array], size: tuple[int, int]
    ) -> dict[str, Array]:
        """Brings 'center' and 'offset', where there are any, to full resolution like `upsample`.

        The logits are left out, for the loss and the post-processing enlarge them on the way.
        """
        return self.upsample(
            {key: outputs[key] for key in ('center', 'offset') if key in outputs}, size
        )


def make_model_backbone(
    model: ModelOptions,
    dtype: Any = jnp.float32,
    *,
    is_norm_frozen: bool = False,
    name: str | None = None,
) -> nn.Module:
    """The backbone of a network."""

    def own(field, shared):
        value = getattr(model, f'backbone_{field}')
        return shared if value is None else value

    options = LayerOptions(
        dtype,
        own('norm_momentum', model.norm_momentum),
        own('norm_epsilon', model.norm_epsilon),
        model.backbone_padding,
        is_norm_frozen,
    )
    return make_backbone(
        model.backbone,
        output_stride=model.output_stride,
        width_multiplier=model.width_multiplier,
        options=options,
        name=name,
        stem=model.stem,
        stride_dialect=model.stride_dialect,
        multi_grid=model.multi_grid,
        endpoints=model.endpoints,
        squeeze_excite_gate=model.squeeze_excite_gate,
        upsampling=model.upsampling,
        drop_path_keep_prob=model.drop_path_keep_prob,
    )
