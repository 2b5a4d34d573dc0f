"""Weights of bytedance/kmax-deeplab, kMaX-DeepLab in PyTorch on detectron2."""

from collections.abc import Collection
from typing import Any

import numpy as np

from pdl_jax.convert.convnext import CONVNEXT
from pdl_jax.convert.detectron2 import make_resnet
from pdl_jax.convert.layers import to_scalar, torch_conv, torch_conv_norm, torch_norm
from pdl_jax.convert.rules import Rule, Target, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.presets.kmax import KMAX_PRESETS


def _conv_norm(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a convolution beside its BatchNorm, as submodules of one module."""
    return torch_conv_norm(rf'{keys}\.conv', rf'{keys}\.norm', path)


def _make_pixel_decoder() -> tuple[Rule, ...]:
    block, path = r'_stages\.(\d)\._blocks\.(\d)', 'stage{1+1}_block{2+1}'
    axis = rf'{block}\._attention\._(height|width)_axis'
    attention = f'{path}/attention/{{3}}_axis'
    return (
        *torch_norm(r'_in_norms\.(\d)', 'norm{1+1}'),
        *_conv_norm(rf'{block}\._(conv[12])_bn_act', f'{path}/{{3}}'),
        *_conv_norm(rf'{block}\._conv3_bn', f'{path}/conv3'),
        *_conv_norm(rf'{block}\._shortcut', f'{path}/shortcut'),
        *torch_conv(rf'{axis}\.qkv_transform\.conv', f'{attention}/query_key_value'),
        *torch_norm(rf'{axis}\._batch_norm_qkv', f'{attention}/query_key_value_norm'),
        *torch_norm(rf'{axis}\._batch_norm_similarity', f'{attention}/similarity_norm'),
        *torch_norm(rf'{axis}\._batch_norm_retrieved_output', f'{attention}/retrieved_norm'),
        Rule(
            rf'{axis}\._(query|key|value)_rpe\._embeddings\.weight',
            (Target('params', f'{attention}/{{4}}_position'),),
        ),
        *_conv_norm(r'_resized_fuses\.(\d)\._conv_bn_low', 'fusion{1+1}/project_coarse'),
        *_conv_norm(r'_resized_fuses\.(\d)\._conv_bn_high', 'fusion{1+1}/project_fine'),
    )


def _make_mask_predictor(keys: str, path: str) -> tuple[Rule, ...]:
    norm = rf'{keys}\._pixel_space_mask_batch_norm'
    return (
        *_conv_norm(rf'{keys}\._pixel_space_head_conv0bnact', f'{path}/depthwise'),
        *_conv_norm(rf'{keys}\._pixel_space_head_conv1bnact', f'{path}/pointwise'),
        *_conv_norm(rf'{keys}\._pixel_space_head_last_convbn', f'{path}/project'),
        *_conv_norm(rf'{keys}\._transformer_mask_head', f'{path}/mask_kernel'),
        *torch_conv(rf'{keys}\._transformer_class_head\.conv', f'{path}/class_logits'),
        *torch_norm(norm, f'{path}/mask_norm', to_scalar),
    )


def _make_transformer() -> tuple[Rule, ...]:
    layer, path = r'_kmax_transformer_layers\.(\d+)', 'layer{1+1}'
    parts = {
        '_query_conv1_bn_act': 'queries',
        '_pixel_conv1_bn_act': 'pixels',
        '_pixel_v_conv_bn': 'values',
        '_query_qkv_conv_bn': 'self_attention/query_key_value',
        '_query_conv3_bn': 'attention',
        '_query_ffn_conv1_bn_act': 'ffn_expand',
        '_query_ffn_conv2_bn': 'ffn_project',
        '_kmeans_query_conv3_bn': 'centers',
    }
    norms = {
        '_kmeans_query_batch_norm_retrieved_value': 'centers_norm',
        r'_query_self_attention\._batch_norm_similarity': 'self_attention/similarity_norm',
        r'_query_self_attention\._batch_norm_retrieved_value': 'self_attention/retrieved_norm',
    }
    rules = [_conv_norm(rf'{layer}\.{key}', f'{path}/{name}') for key, name in parts.items()]
    rules += [torch_norm(rf'{layer}\.{key}', f'{path}/{name}') for key, name in norms.items()]
    return (
        *(rule for group in rules for rule in group),
        # The original's spelling.
        *_make_mask_predictor(rf'{layer}\._predcitor', f'{path}/predictor'),
        *_make_mask_predictor('_predcitor', 'predictor'),
        *_conv_norm('_(class|mask)_embedding_projection', '{1}_embedding'),
        Rule(r'_cluster_centers\.weight', (Target('params', 'queries', np.transpose),)),
    )


def _make_semantic_branch() -> tuple[Rule, ...]:
    keys, decoder, head = '_auxiliary_semantic_predictor', 'semantic_decoder', 'semantic_head'
    return (
        *_conv_norm(rf'{keys}\._aspp\._aspp_conv(\d)', f'{decoder}/aspp/branch_{{1}}'),
        *_conv_norm(rf'{keys}\._aspp\._aspp_pool', f'{decoder}/aspp/pool'),
        *_conv_norm(rf'{keys}\._aspp\._proj_conv_bn_act', f'{decoder}/aspp/project'),
        *_conv_norm(rf'{keys}\._low_level_projection_os(\d)', f'{decoder}/project_stride{{1}}'),
        *_conv_norm(
            rf'{keys}\._low_level_fusion_os(\d)_conv0_bn_act',
            f'{decoder}/fuse_stride{{1}}/depthwise',
        ),
        *_conv_norm(
            rf'{keys}\._low_level_fusion_os(\d)_conv1_bn_act',
            f'{decoder}/fuse_stride{{1}}/pointwise',
        ),
        # The head is numbered where it stands alone, as for Cityscapes.
        *_conv_norm(rf'{keys}\.(?:conv_block_)?0', f'{head}/fuse/depthwise'),
        *_conv_norm(rf'{keys}\.(?:conv_block_)?1', f'{head}/fuse/pointwise'),
        *torch_conv(rf'{keys}\.(?:final_conv|2)\.conv', f'{head}/predict'),
    )


def _make_rules(options: Any, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    is_convnext = options.backbone.name.startswith('convnext')
    backbone = CONVNEXT if is_convnext else make_resnet(is_deep=False)
    predictor = (*_make_transformer(), *_make_semantic_branch())
    return (
        *under(backbone, keys=r'backbone\.', path='backbone'),
        *under(_make_pixel_decoder(), keys=r'sem_seg_head\.pixel_decoder\.', path='pixel_decoder'),
        *under(predictor, keys=r'sem_seg_head\.predictor\.'),
        ignore('pixel_(mean|std)', 'the normalisation of pixels, which the preset defines'),
        ignore(r'criterion\..*', 'constants of the loss'),
    )


SOURCE = Source(
    name='kmax_pytorch',
    make_rules=_make_rules,
    presets=tuple(name for name in KMAX_PRESETS if name.startswith('kmax_pytorch/')),
)
