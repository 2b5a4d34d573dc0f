"""MobileNetV2 of Keras Applications, as an .npz of weights by name (`block_3_expand_BN/gamma`)."""

from collections.abc import Collection

from pdl_jax.convert.layers import tensorflow_conv, tensorflow_depthwise, tensorflow_norm
from pdl_jax.convert.rules import Rule, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions

_MOBILENET_V2 = (
    *tensorflow_conv('Conv1', 'stem/conv'),
    *tensorflow_norm('bn_Conv1', 'stem/norm'),
    # The first block has no expansion and no number.
    *tensorflow_depthwise('expanded_conv_depthwise', 'block_0/depthwise/conv'),
    *tensorflow_conv('expanded_conv_project', 'block_0/project/conv'),
    *tensorflow_norm('expanded_conv_(depthwise|project)_BN', 'block_0/{1}/norm'),
    *tensorflow_depthwise(r'block_(\d+)_depthwise', 'block_{1}/depthwise/conv'),
    *tensorflow_conv(r'block_(\d+)_(expand|project)', 'block_{1}/{2}/conv'),
    *tensorflow_norm(r'block_(\d+)_(expand|depthwise|project)_BN', 'block_{1}/{2}/norm'),
    ignore(
        '(Conv_1|Conv_1_bn|predictions|Logits)/.*',
        'belongs to the classifier, which a segmentation network does not have',
    ),
)


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del options, keys
    return under(_MOBILENET_V2, path='backbone')


SOURCE = Source(
    name='keras',
    make_rules=_make_rules,
    backbones={
        'mobilenet_v2': tuple(
            {
                'width_multiplier': width,
                'norm_epsilon': 1e-3,
                'backbone_padding': 'same',
                'normalization': 'unit',
            }
            for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
        )
    },
)
