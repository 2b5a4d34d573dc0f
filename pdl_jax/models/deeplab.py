"""The network of Panoptic-DeepLab and the semantic DeepLabs: backbone, decoders, heads."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.blocks import LayerOptions, make_fusion
from pdl_jax.models.decoder import Decoder
from pdl_jax.models.heads import Head
from pdl_jax.models.lr_aspp import LRASPP
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import BranchOptions, ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array


class DeepLab(nn.Module):
    """Predicts semantic logits and, with an instance branch, a heatmap of centres and offsets.

    Attributes:
      num_classes: semantic logits.
      options: the parts; `presets.make_options` gives those of the papers and programs.
      pool_crop: (height, width) in image pixels of the window that the ASPP averages over, None
        for the whole image.
      dtype: dtype of activations; parameters, BatchNorm statistics and outputs stay float32.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.

    Source: Cheng et al., Panoptic-DeepLab, CVPR 2020.
    """

    num_classes: int
    options: ModelOptions = ModelOptions()
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
          'semantic': f32[B, h, w, C] logits and, with an instance branch, 'center': f32[B, h, w, 1]
          and 'offset': f32[B, h, w, 2], (dy, dx) in pixels of `options.offset_unit`, at the stride
          of the finest skip. `upsample` brings them to the size of the image.
        """
        options = self.options
        features = make_model_backbone(
            options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )(image, train=train)
        if not isinstance(features, dict) or 'last' not in features:
            raise ValueError(
                f"model.backbone {options.backbone.name!r} must return a dict of features 'last', "
                f"'stride4', 'stride8', ..., not {jax.tree.map(jnp.shape, features)}"
            )
        layers = LayerOptions(self.dtype, options.norm_momentum, options.norm_epsilon)
        window = None
        if options.aspp_pooling != 'global' and self.pool_crop is not None:
            height, width = ((n - 1) // options.backbone.output_stride + 1 for n in self.pool_crop)
            window = height, width

        if options.decoder == 'lr_aspp':
            semantic = LRASPP(
                options.semantic.aspp_features,
                self.num_classes,
                options.lr_aspp_gate,
                window,
                options.resize,
                layers,
                name='semantic_decoder',
            )(features, train=train)
            return {'semantic': semantic}

        def run_branch(name: str, branch: BranchOptions) -> dict[str, Array]:
            decoder = Decoder(branch, options, window, layers, name=f'{name}_decoder')
            x = decoder(features, train=train)
            channels = {'semantic': self.num_classes, 'center': 1, 'offset': 2}
            width, has_bias = branch.head_features, options.has_norm_bias
            if branch.shared_head != 'none':
                x = make_fusion(
                    branch.shared_head,
                    width,
                    x.shape[-1],
                    layers,
                    name=f'{name}_shared_head',
                    has_bias=has_bias,
                )(x, train=train)
            return {
                output: Head(
                    kind, width, channels[output], layers, has_bias, name=f'{output}_head'
                )(x, train=train)
                for output, kind in branch.heads
            }

        outputs = run_branch('semantic', options.semantic)
        if options.instance is not None:
            outputs |= run_branch('instance', options.instance)
        return outputs

    def upsample(self, outputs: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """Brings outputs to full resolution; needs no variables.

        Offsets in pixels of their map are first scaled per axis by the ratio of the two pixel
        grids: (out - 1) / (in - 1) where corners are aligned, out / in where pixel centres are.

        Args:
          outputs: the result of a call.
          size: (height, width) of the image in pixels.

        Returns:
          The same keys at `size`; offsets in pixels of the image.
        """
        resize = self.options.resize
        if 'offset' in outputs and self.options.offset_unit == 'map':
            shrink = 1 if resize == 'corner_aligned' else 0
            scale = [
                (large - shrink) / max(small - shrink, 1)
                for large, small in zip(size, outputs['offset'].shape[1:3], strict=True)
            ]
            outputs = {**outputs, 'offset': outputs['offset'] * jnp.array(scale, jnp.float32)}
        height, width = size
        return {key: resize_bilinear(x, (height, width), resize) for key, x in outputs.items()}

    def upsample_instances(
        self, outputs: dict[str, Array], size: tuple[int, int]
    ) -> dict[str, Array]:
        """Brings 'center' and 'offset', if there are any, to full resolution like `upsample`.

        The logits are left out: the loss and the post-processing upsample them block by block.
        """
        instances = {key: outputs[key] for key in ('center', 'offset') if key in outputs}
        return self.upsample(instances, size)
