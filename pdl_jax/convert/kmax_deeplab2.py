"""Rules for kMaX-DeepLab in DeepLab2's checkpoints, its encoder aside."""

from pdl_jax.convert.deeplab2_layers import (
    attention_norms,
    conv_norm,
    get_first,
    residual_unit,
    semantic_branch,
    separable,
)
from pdl_jax.convert.layers import tensorflow_conv, tensorflow_norm, to_scalar
from pdl_jax.convert.rules import Rule, Target, under
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


def make_kmax_rules(options: KMaXNetworkOptions) -> tuple[Rule, ...]:
    """Makes the rules of the decoders and of the heads.

    Class logits of queries stay in the order of the file, see `Source.has_things_first`.
    """
    return (
        *under(_make_pixel_decoder(), keys='pixel_decoder/', path='pixel_decoder'),
        *under(_make_transformer(), keys='transformer_decoder/'),
        *make_mask_predictor('', 'predictor'),
        *semantic_branch(has_void_logit=options.has_void_logit),
    )


def make_mask_predictor(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of the heads of a mask transformer, whose names begin with `keys`."""
    return (
        *separable(f'{keys}pixel_space_head/conv_block/_conv1_bn_act', path),
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
        *residual_unit(unit, path),
        *conv_norm(r'_skip_connections/(\d)/_resized_conv_bn1', 'fusion{1+1}/project_coarse'),
        *conv_norm(r'_skip_connections/(\d)/_resized_conv_bn2', 'fusion{1+1}/project_fine'),
    )


def _make_transformer() -> tuple[Rule, ...]:
    layer, path = r'_kmax_decoder/(\d+)/_block1_transformer', 'layer{1+1}'
    rules: list[Rule] = []
    for key, name in _LAYER_PARTS.items():
        rules += conv_norm(f'{layer}/{key}', f'{path}/{name}')
    return (
        *rules,
        *attention_norms(f'{layer}/_memory_attention', f'{path}/self_attention'),
        *tensorflow_norm(
            f'{layer}/_kmeans_memory_batch_norm_retrieved_value', f'{path}/centers_norm'
        ),
        *make_mask_predictor(f'{layer}/_auxiliary_clustering_predictor/_', f'{path}/predictor'),
        *conv_norm('_(class|mask)_embedding_projection', '{1}_embedding'),
        Rule('cluster_centers', (Target('params', 'queries', get_first),)),
    )
