"""Layers of TF DeepLab by their names in the checkpoints of TF-slim."""

import numpy as np

from pdl_jax.convert.layers import from_depthwise, tensorflow_norm, to_hwio
from pdl_jax.convert.rules import Rule, Target, ignore, under
from pdl_jax.models.options import ModelOptions

_IGNORED = (
    ignore('global_step', 'a counter of steps or saves'),
    ignore(
        r'.*/(Momentum|ExponentialMovingAverage|RMSProp(_1)?|Adam(_1)?)',
        'a variable of the optimiser, or an average of variables over steps',
    ),
)
_CLASSIFIER = 'belongs to the classifier, which a segmentation network does not have'


def _conv(pattern: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f'{pattern}/weights', (Target('params', f'{path}/kernel', to_hwio),)),
        Rule(f'{pattern}/biases', (Target('params', f'{path}/bias'),)),
    )


def _conv_norm(pattern: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a `blocks.ConvNorm`, depthwise or not."""
    return (
        *_conv(pattern, f'{path}/conv'),
        Rule(
            f'{pattern}/depthwise_weights',
            (Target('params', f'{path}/conv/kernel', from_depthwise),),
        ),
        *tensorflow_norm(f'{pattern}/BatchNorm', f'{path}/norm'),
    )


def _make_xception() -> tuple[Rule, ...]:
    rules = [*_conv_norm(r'entry_flow/conv1_(\d)', 'stem_{1}')]
    # Blocks of the entry and the exit flow have one unit each; the middle flow is one block.
    for flow, block, name in (
        ('entry_flow', r'block(\d)/unit_1', 'entry_block{1}'),
        ('middle_flow', r'block1/unit_(\d+)', 'middle_block{1}'),
        ('exit_flow', r'block(\d)/unit_1', 'exit_block{1}'),
    ):
        module = rf'{flow}/{block}/xception_module'
        rules += [
            *_conv_norm(
                rf'{module}/separable_conv(\d_(?:depthwise|pointwise))',
                f'{name}/separable_conv{{2}}',
            ),
            *_conv_norm(rf'{module}/shortcut', f'{name}/shortcut'),
        ]
    return tuple(rules)


_RESNET_BETA = (
    *_conv_norm(r'conv1_(\d)', 'stem_{1}'),
    *_conv_norm(r'block(\d)/unit_(\d+)/bottleneck_v1/(conv\d|shortcut)', 'stage{1+1}_block{2}/{3}'),
)


def _make_mobilenet_blocks() -> tuple[Rule, ...]:
    """Makes the rules of the stem and the blocks of MobileNetV2 and V3."""
    rules = [*_conv_norm('Conv', 'stem')]
    # The first block has no number, and no expansion.
    for block, path in (('expanded_conv', 'block_0'), (r'expanded_conv_(\d+)', 'block_{1}')):
        for part in ('expand', 'depthwise', 'project'):
            rules += _conv_norm(f'{block}/{part}', f'{path}/{part}')
        for name, part in (('Conv', 'reduce'), ('Conv_1', 'expand')):
            rules += _conv(f'{block}/squeeze_excite/{name}', f'{path}/squeeze_excite/{part}')
    return tuple(rules)


_MOBILENET_V2 = (*_make_mobilenet_blocks(), ignore('Conv_1/.*', _CLASSIFIER))
_MOBILENET_V3 = (
    *_make_mobilenet_blocks(),
    *_conv_norm('Conv_1', 'last_conv'),
    ignore('Conv_2/.*', _CLASSIFIER),
)


def _make_backbone(name: str) -> tuple[Rule, ...]:
    """Makes the rules of a backbone under the scope of its own name."""
    if name.startswith('xception'):
        scope, rules = name.replace('xception', 'xception_'), _make_xception()
    elif name.startswith('resnet'):
        depth = name.removeprefix('resnet').removesuffix('_beta')
        scope, rules = f'resnet_v1_{depth}', _RESNET_BETA
    elif name.startswith('mobilenet_v3'):
        scope, rules = 'MobilenetV3', _MOBILENET_V3
    else:
        scope, rules = 'MobilenetV2', _MOBILENET_V2
    rules = (*rules, ignore('(logits|Logits)/.*', _CLASSIFIER))
    return under(rules, keys=f'{scope}/', path='backbone')


def _make_lr_aspp() -> tuple[Rule, ...]:
    decoder = 'semantic_decoder'
    return (
        *_conv_norm('aspp0', f'{decoder}/project'),
        *_conv('image_pooling', f'{decoder}/gate'),
        *_conv('decoder/decoder_conv0', f'{decoder}/predict_last'),
        *_conv('decoder/feature_projection0', f'{decoder}/predict_stride8'),
    )


def _make_cell() -> tuple[Rule, ...]:
    cell, keys = 'semantic_decoder/dense_prediction_cell', 'meta_architecture'
    return (
        *_conv_norm(rf'{keys}/branch(\d)_(depthwise|pointwise)', f'{cell}/branch_{{1}}/{{2}}'),
        *_conv_norm(f'{keys}/concat_projection', f'{cell}/project'),
    )


def _make_aspp() -> tuple[Rule, ...]:
    aspp = 'semantic_decoder/aspp'
    projection = Target('params', f'{aspp}/project/conv/kernel', _move_pooled_last)
    return (
        *_conv_norm('aspp0', f'{aspp}/branch_0'),
        *_conv_norm(r'aspp([123])', f'{aspp}/branch_{{1}}'),
        *_conv_norm(r'aspp([123])_(depthwise|pointwise)', f'{aspp}/branch_{{1}}/{{2}}'),
        *_conv_norm('image_pooling', f'{aspp}/pool'),
        Rule('concat_projection/weights', (projection,)),
        *tensorflow_norm('concat_projection/BatchNorm', f'{aspp}/project/norm'),
    )


def _make_head(options: ModelOptions) -> tuple[Rule, ...]:
    if options.decoder == 'lr_aspp':
        return _make_lr_aspp()
    decoder = 'semantic_decoder'
    return (
        *(_make_cell() if options.context == 'dense_prediction_cell' else _make_aspp()),
        *_conv_norm('decoder/feature_projection0', f'{decoder}/project_stride4'),
        *_conv_norm(
            r'decoder/decoder_conv([01])_(depthwise|pointwise)',
            f'{decoder}/fuse_stride4/conv{{1+1}}/{{2}}',
        ),
        *_conv('logits/semantic', 'semantic_head/predict'),
    )


def make_rules(options: ModelOptions) -> tuple[Rule, ...]:
    """Makes the rules of a whole network or of a backbone alone."""
    return (*_IGNORED, *_make_backbone(options.backbone.name), *_make_head(options))


def _move_pooled_last(kernel: np.ndarray) -> np.ndarray:
    """Orders the inputs of an ASPP's projection; TensorFlow has the pooled features first."""
    width = kernel.shape[-1]
    return np.concatenate([kernel[:, :, width:], kernel[:, :, :width]], axis=2)
