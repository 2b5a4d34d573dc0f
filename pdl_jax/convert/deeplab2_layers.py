"""Rules for the layers and modules of DeepLab2, by the names of their attributes."""

import numpy as np

from pdl_jax.convert.layers import (
    tensorflow_conv,
    tensorflow_depthwise,
    tensorflow_norm,
    to_hwio,
)
from pdl_jax.convert.rules import Rule, Target, Transform, keep


def conv_norm(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a convolution with its BatchNorm, of maps or of sequences."""
    return (
        *tensorflow_conv(f'{keys}/_conv', f'{path}/conv'),
        *tensorflow_norm(f'{keys}/_batch_norm', f'{path}/norm'),
    )


def depthwise_norm(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a depthwise convolution with its BatchNorm."""
    return (
        *tensorflow_depthwise(f'{keys}/_depthwise_conv', f'{path}/conv'),
        *tensorflow_norm(f'{keys}/_batch_norm', f'{path}/norm'),
    )


def separable(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a depthwise separable convolution."""
    return (
        *depthwise_norm(f'{keys}/_depthwise', f'{path}/depthwise'),
        *conv_norm(f'{keys}/_pointwise', f'{path}/pointwise'),
    )


def axial_attention(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of attention along both axes.

    Args:
      keys: regex of the residual unit's name.
      path: path of the residual unit; may refer to groups of `keys`.
    """
    rules: list[Rule] = []
    for axis in ('height_axis', 'width_axis'):
        layer, found = f'{keys}/_attention/_{axis}', f'{path}/attention/{axis}'
        rules += [
            Rule(
                f'{layer}/qkv_kernel',
                (Target('params', f'{found}/query_key_value/kernel', to_hwio),),
            ),
            *tensorflow_norm(f'{layer}/_batch_norm_qkv', f'{found}/query_key_value_norm'),
            # Shapes [3, 1, heads, 1, 1] and [2, 1, heads, 1, channels of a head].
            *tensorflow_norm(
                f'{layer}/_batch_norm_similarity', f'{found}/similarity_norm', np.ravel
            ),
            *tensorflow_norm(
                f'{layer}/_batch_norm_retrieved_output', f'{found}/retrieved_norm', np.ravel
            ),
        ]
        rules += [
            Rule(
                f'{layer}/_{name}_rpe/embeddings',
                (Target('params', f'{found}/{name}_position'),),
            )
            for name in ('query', 'key', 'value')
        ]
    return tuple(rules)


def residual_unit(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a residual unit of convolutions or of axial attention."""
    rules: list[Rule] = []
    for i in (1, 2, 3):
        rules += conv_norm(f'{keys}/_conv{i}_bn(?:_act)?', f'{path}/conv{i}')
    return (
        *rules,
        *conv_norm(f'{keys}/_shortcut', f'{path}/shortcut'),
        *axial_attention(keys, path),
    )


def attention_norms(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of the BatchNorms of attention among pixels and queries."""
    return (
        *tensorflow_norm(f'{keys}/_batch_norm_similarity', f'{path}/similarity_norm'),
        # Shape [1, heads, 1, channels of a head].
        *tensorflow_norm(f'{keys}/_batch_norm_retrieved_value', f'{path}/retrieved_norm', np.ravel),
    )


def branch_decoder(branch: str) -> list[Rule]:
    """Makes the rules of the decoder of one branch, 'semantic' or 'instance'."""
    keys, aspp = f'{branch}_decoder', f'{branch}_decoder/aspp'
    rules: list[Rule] = [
        *conv_norm(f'{keys}/_aspp/_conv_bn_act', f'{aspp}/branch_0'),
        *conv_norm(rf'{keys}/_aspp/_aspp_conv(\d)/_conv_bn_act', f'{aspp}/branch_{{1}}'),
        *conv_norm(f'{keys}/_aspp/_aspp_pool/_conv_bn_act', f'{aspp}/pool'),
        *conv_norm(f'{keys}/_aspp/_proj_conv_bn_act', f'{aspp}/project'),
    ]
    for i, stride in ((1, 8), (2, 4)):
        rules += [
            *conv_norm(f'{keys}/_low_level_conv{i}', f'{keys}/project_stride{stride}'),
            *separable(f'{keys}/_fusion_conv{i}/_conv1_bn_act', f'{keys}/fuse_stride{stride}'),
        ]
    return rules


def branch_head(head: str, last: str, path: str, transform: Transform = keep) -> tuple[Rule, ...]:
    """Makes the rules of a head.

    Args:
      head: its name in checkpoints.
      last: the name of its last layer.
      path: its path in our network.
      transform: from kernel and bias of the last layer to ours.
    """
    return (
        *separable(f'{head}_without_last_layer/_conv1_bn_act', f'{path}/fuse'),
        Rule(f'{last}/kernel', (Target('params', f'{path}/predict/kernel', transform),)),
        Rule(f'{last}/bias', (Target('params', f'{path}/predict/bias', transform),)),
    )


def semantic_branch(*, has_void_logit: bool) -> tuple[Rule, ...]:
    """Makes the rules of the semantic branch that mask transformers learn beside their masks."""
    return (
        *branch_decoder('semantic'),
        *branch_head(
            'semantic_head',
            'semantic_last_layer',
            'semantic_head',
            _move_void_last if has_void_logit else keep,
        ),
    )


def get_first(x: np.ndarray) -> np.ndarray:
    """Returns the queries [N, D] of [1, N, D]."""
    return x[0]


def _move_void_last(x: np.ndarray) -> np.ndarray:
    """Moves the logit of label 0."""
    return np.roll(x, -1, axis=-1)
