"""The network of Panoptic-DeepLab and the semantic DeepLabs: backbone, decoders, heads."""

import functools
from collections.abc import Callable
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
from pdl_jax.models.spgnet import SPGStages
from pdl_jax.models.sum_aspp import SumASPP
from pdl_jax.ops.resize import resize_bilinear, resize_by_factor, upsample_offsets
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
          of the finest skip. `upsample` brings them to the size of the image. In training also
          'semantic_stage1', ...: logits of earlier stages, or 'semantic_0', ...: of each input
          scale at its own size, if there are several.
        """
        options = self.options
        backbone = make_model_backbone(
            options, self.dtype, is_norm_frozen=self.freeze_backbone_norm, name='backbone'
        )
        decoders = self._make_decoders()

        def run(image: Array) -> dict[str, Array]:
            features = backbone(image, train=train)
            if not isinstance(features, dict) or 'last' not in features:
                raise ValueError(
                    f'model.backbone {options.backbone.name!r} must return a dict of features '
                    f"'last', 'stride4', 'stride8', ..., not {jax.tree.map(jnp.shape, features)}"
                )
            return {k: x for decode in decoders for k, x in decode(features, train).items()}

        outputs = run(image)
        if options.input_scales == (1.0,):
            return outputs
        scales = options.input_scales[1:]
        logits = [outputs['semantic']]
        logits += [run(resize_by_factor(image, scale))['semantic'] for scale in scales]
        return self._fuse_scales(logits, train)

    def _make_decoders(self) -> list[Callable[[dict[str, Array], bool], dict[str, Array]]]:
        """Makes functions from features to outputs, which may run several times."""
        options = self.options
        layers = LayerOptions(self.dtype, options.norm_momentum, options.norm_epsilon)
        window = None
        if options.aspp_pooling != 'global' and self.pool_crop is not None:
            height, width = ((n - 1) // options.backbone.output_stride + 1 for n in self.pool_crop)
            window = height, width
        if options.decoder == 'spgnet':
            stages = SPGStages(
                self.num_classes,
                options,
                layers,
                self.freeze_backbone_norm,
                name='semantic_decoder',
            )
            return [lambda features, train: stages(features, train=train)]
        if options.decoder != 'deeplab':
            decoder = self._make_semantic_decoder(window, layers)
            return [lambda features, train: {'semantic': decoder(features, train=train)}]
        branches = {'semantic': options.semantic, 'instance': options.instance}
        return [
            self._make_branch(name, branch, window, layers)
            for name, branch in branches.items()
            if branch is not None
        ]

    def _make_semantic_decoder(
        self, window: tuple[int, int] | None, layers: LayerOptions
    ) -> nn.Module:
        """Makes a decoder that ends with the logits."""
        options = self.options
        name = 'semantic_decoder'
        if options.decoder == 'lr_aspp':
            return LRASPP(
                options.semantic.aspp_features,
                self.num_classes,
                options.lr_aspp_gate,
                window,
                options.resize,
                layers,
                name=name,
            )
        return SumASPP(
            self.num_classes,
            options.aspp_rates,
            options.sum_aspp_kernel_px,
            options.semantic.aspp_features,
            options.dropout_rate,
            options.is_sum_aspp_pooled,
            layers,
            name=name,
        )

    def _make_branch(
        self,
        name: str,
        branch: BranchOptions,
        window: tuple[int, int] | None,
        layers: LayerOptions,
    ) -> Callable[[dict[str, Array], bool], dict[str, Array]]:
        decoder = Decoder(branch, self.options, window, layers, name=f'{name}_decoder')
        channels = {'semantic': self.num_classes, 'center': 1, 'offset': 2}
        width, has_bias = branch.head_features, self.options.has_norm_bias
        shared_head = None
        if branch.shared_head != 'none':
            shared_head = make_fusion(
                branch.shared_head,
                width,
                branch.features,
                layers,
                name=f'{name}_shared_head',
                has_bias=has_bias,
            )
        heads = {
            output: Head(kind, width, channels[output], layers, has_bias, name=f'{output}_head')
            for output, kind in branch.heads
        }

        def run(features: dict[str, Array], train: bool) -> dict[str, Array]:
            x = decoder(features, train=train)
            if shared_head is not None:
                x = shared_head(x, train=train)
            return {output: head(x, train=train) for output, head in heads.items()}

        return run

    def _fuse_scales(self, logits: list[Array], train: bool) -> dict[str, Array]:
        """Takes the maximum over scales; in training the logits of each are supervised too."""
        height, width = logits[0].shape[1:3]
        resized: list[Array] = [
            resize_bilinear(x, (height, width), self.options.resize) for x in logits
        ]
        outputs = {'semantic': functools.reduce(jnp.maximum, resized)}
        if train:
            outputs |= {f'semantic_{i}': x for i, x in enumerate(logits)}
        return outputs

    def upsample(self, outputs: dict[str, Array], size: tuple[int, int]) -> dict[str, Array]:
        """Brings outputs to full resolution; needs no variables.

        Args:
          outputs: the result of a call.
          size: (height, width) of the image in pixels.

        Returns:
          The same keys at `size`; offsets in pixels of the image.
        """
        resize = self.options.resize

        def bring(key: str, x: Array) -> Array:
            if key == 'offset' and self.options.offset_unit == 'map':
                return upsample_offsets(x, size, resize)
            return resize_bilinear(x, size, resize)

        return {key: bring(key, x) for key, x in outputs.items()}

    def upsample_instances(
        self, outputs: dict[str, Array], size: tuple[int, int]
    ) -> dict[str, Array]:
        """Brings 'center' and 'offset', if there are any, to full resolution like `upsample`.

        The logits are left out: the loss and the post-processing upsample them block by block.
        """
        instances = {key: outputs[key] for key in ('center', 'offset') if key in outputs}
        return self.upsample(instances, size)
