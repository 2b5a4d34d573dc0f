"""Rules for kMaX-DeepLab in DeepLab2's checkpoints, its encoder aside."""

import numpy as np

from pdl_jax.convert.deeplab2_layers import (
    axial_attention,
    branch_decoder,
    branch_head,
    conv_norm,
    separable,
)
from pdl_jax.convert.layers import tensorflow_conv, tensorflow_norm, to_scalar
from pdl_jax.convert.rules import Rule, Target, keep, under
from pdl_jax.models.kmax_options import KMaXNetworkOptions

# Convolutions of a layer of the transformer decoder.
_LAYER_PARTS = {
    '_memory_conv1_bn_act': 'queries',
    '_pixel_conv1_bn_act': 'pixels',
    '_pixel_v_conv_bn': 'values',
    '_memory_qkv_conv_bn': 'self_attention/query_key_value',
    '_memory_conv3_bn': 'attention',
    '_memory_ffn_conv1_bn_act': 'ffn_expand',
    '_memory_ffn_conv2_bn': 'ffn_project',
    '_kmeans_memory_conv3_bn': 'centers',
}
_LAYER_NORMS = {
    '_kmeans_memory_batch_norm_retrieved_value': 'centers_norm',
    '_memory_attention/_batch_norm_similarity': 'self_attention/similarity_norm',
    '_memory_attention/_batch_norm_retrieved_value': 'self_attention/retrieved_norm',
}


def make_kmax_rules(options: KMaXNetworkOptions) -> tuple[Rule, ...]:
    """Makes the rules of the decoders and of the heads.

    Class logits of queries stay in the order of the file, see `Source.has_things_first`.
    """
    return (
        *under(_make_pixel_decoder(), keys='pixel_decoder/', path='pixel_decoder'),
        *under(_make_transformer(), keys='transformer_decoder/'),
        *make_mask_predictor('', 'predictor'),
        *branch_decoder('semantic'),
        *branch_head(
            'semantic_head',
            'semantic_last_layer',
            'semantic_head',
            _move_void_last if options.has_void_logit else keep,
        ),
    )


def make_mask_predictor(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of the heads of a mask transformer, whose names begin with `keys`."""
    return (
        *separable(f'{keys}pixel_space_head/conv_block/_conv1_bn_act', path, f'{path}/pointwise'),
        *tensorflow_conv(f'{keys}pixel_space_head/final_conv', f'{path}/project/conv'),
        *tensorflow_norm(f'{keys}pixel_space_feature_batch_norm', f'{path}/project/norm'),
        *conv_norm(f'{keys}transformer_mask_head', f'{path}/mask_kernel'),
        *tensorflow_conv(f'{keys}transformer_class_head/_conv', f'{path}/class_logits'),
        *tensorflow_norm(f'{keys}pixel_space_mask_batch_norm', f'{path}/mask_norm', to_scalar),
    )


def _make_pixel_decoder() -> tuple[Rule, ...]:
    unit, path = r'_stages/(\d)/_block(\d)', 'stage{1+1}_block{2}'
    return (
        *tensorflow_norm(r'_backbone_norms/(\d)', 'norm{1+1}'),
        *conv_norm(rf'{unit}/_conv(\d)_bn(?:_act)?', f'{path}/conv{{3}}'),
        *conv_norm(rf'{unit}/_shortcut', f'{path}/shortcut'),
        *axial_attention(unit, path),
        *conv_norm(r'_skip_connections/(\d)/_resized_conv_bn1', 'fusion{1+1}/project_coarse'),
        *conv_norm(r'_skip_connections/(\d)/_resized_conv_bn2', 'fusion{1+1}/project_fine'),
    )


def _make_transformer() -> tuple[Rule, ...]:
    layer, path = r'_kmax_decoder/(\d+)/_block1_transformer', 'layer{1+1}'
    rules: list[Rule] = []
    for key, name in _LAYER_PARTS.items():
        rules += conv_norm(f'{layer}/{key}', f'{path}/{name}')
    for key, name in _LAYER_NORMS.items():
        rules += tensorflow_norm(f'{layer}/{key}', f'{path}/{name}', np.ravel)
    return (
        *rules,
        *make_mask_predictor(f'{layer}/_auxiliary_clustering_predictor/_', f'{path}/predictor'),
        *conv_norm('_(class|mask)_embedding_projection', '{1}_embedding'),
        Rule('cluster_centers', (Target('params', 'queries', _get_first),)),
    )


def _get_first(x: np.ndarray) -> np.ndarray:
    return x[0]


def _move_void_last(x: np.ndarray) -> np.ndarray:
    """Moves the logit of label 0."""
    return np.roll(x, -1, axis=-1)
