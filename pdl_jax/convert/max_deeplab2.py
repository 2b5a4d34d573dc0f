"""Rules for MaX-DeepLab-S in DeepLab2's checkpoints, the backbone's units aside."""

from pdl_jax.convert.deeplab2_layers import (
    attention_norms,
    conv_norm,
    get_first,
    residual_unit,
    semantic_branch,
)
from pdl_jax.convert.kmax_deeplab2 import make_mask_predictor
from pdl_jax.convert.rules import Rule, Target, under


def make_max_rules() -> tuple[Rule, ...]:
    """Makes the rules of all but the backbone; its checkpoints count the decoder as encoder.

    Class logits of queries stay in the order of the file, see `Source.has_things_first`.
    """
    decoder = (
        *_make_exchange(r'_stage5/_block(\d)_transformer', 'exchange{1}'),
        *residual_unit('_stage5_extra/_block1', 'extra_block'),
        *_make_exchange('_stage5_extra/_block1_transformer', 'extra_exchange'),
        *residual_unit(r'_decoder_stage(\d)_extra/_block1', 'decoder_block{1}'),
        # The name has '_extra' since kMaX-DeepLab.
        *conv_norm(
            r'_decoder_stage(\d)(?:_extra)?_resized_fuse/_resized_conv_bn1',
            'fusion{1}/project_coarse',
        ),
        *conv_norm('_(class|mask)_feature_extra', '{1}_embedding'),
        Rule('_?memory_feature', (Target('params', 'queries', get_first),)),
    )
    return (
        *under(decoder, keys='encoder/'),
        *make_mask_predictor('', 'predictor'),
        *semantic_branch(has_void_logit=True),
    )


def _make_exchange(keys: str, path: str) -> tuple[Rule, ...]:
    rules: list[Rule] = [
        *conv_norm(f'{keys}/_memory_ffn_conv1_bn_act', f'{path}/ffn_expand'),
        *conv_norm(f'{keys}/_memory_ffn_conv2_bn', f'{path}/ffn_project'),
    ]
    for theirs, ours in (('memory', 'queries'), ('pixel', 'pixels')):
        rules += [
            *conv_norm(f'{keys}/_{theirs}_conv1_bn_act', f'{path}/{ours}'),
            *conv_norm(f'{keys}/_{theirs}_qkv_conv_bn', f'{path}/{ours}_query_key_value'),
            *conv_norm(f'{keys}/_{theirs}_conv3_bn', f'{path}/{ours}_output'),
        ]
        rules += attention_norms(f'{keys}/_{theirs}_attention', f'{path}/{ours}_attention')
    return tuple(rules)
