"""Weights of TensorFlow Model Garden's Panoptic-DeepLab: TensorFlow 2 checkpoints.

The layers of a backbone are numbered through, as Keras does in a functional model.
"""

from collections.abc import Collection

from pdl_jax.convert.checkpoint_keys import make_checkpoint_rules
from pdl_jax.convert.layers import tensorflow_conv, tensorflow_depthwise, tensorflow_norm
from pdl_jax.convert.rules import Rule, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import PRESETS

_LAYER = 'layer_with_weights'
_MOBILENET_BLOCKS = {'mobilenet_v3_small': 11, 'mobilenet_v3_large': 15}
_STEM_LAYERS = 6
_EXCITE = ('/_squeeze_excitation/_se_(reduce|expand)', '/squeeze_excite/{1}')


def _make_resnet(block_counts: tuple[int, ...]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for i in range(_STEM_LAYERS // 2):
        rules += _conv_norm(f'{_LAYER}-{2 * i}', f'{_LAYER}-{2 * i + 1}', f'stem_{i + 1}')
    units = [
        f'stage{stage}_block{i + 1}'
        for stage, count in enumerate(block_counts, 2)
        for i in range(count)
    ]
    for number, path in enumerate(units, _STEM_LAYERS):
        keys = f'{_LAYER}-{number}'
        for i in (1, 2, 3):
            rules += _conv_norm(f'{keys}/_conv{i}', f'{keys}/_norm{i}', f'{path}/conv{i}')
        rules += _conv_norm(f'{keys}/_shortcut', f'{keys}/_norm0', f'{path}/shortcut')
        rules += tensorflow_conv(keys + _EXCITE[0], path + _EXCITE[1])
    return tuple(rules)


def _make_mobilenet(num_blocks: int) -> tuple[Rule, ...]:
    rules = [*_conv_norm(f'{_LAYER}-0/_conv0', f'{_LAYER}-0/_norm0', 'stem')]
    for number in range(1, num_blocks + 1):
        keys, path = f'{_LAYER}-{number}', f'block_{number - 1}'
        rules += [
            *_conv_norm(f'{keys}/_conv0', f'{keys}/_norm0', f'{path}/expand'),
            *tensorflow_depthwise(f'{keys}/_conv1', f'{path}/depthwise/conv'),
            *tensorflow_norm(f'{keys}/_norm1', f'{path}/depthwise/norm'),
            *_conv_norm(f'{keys}/_conv2', f'{keys}/_norm2', f'{path}/project'),
            *tensorflow_conv(keys + _EXCITE[0], path + _EXCITE[1]),
        ]
    tail = f'{_LAYER}-({num_blocks + 1}|{num_blocks + 2})/_(conv|norm)0/.*'
    return (*rules, ignore(tail, 'a layer after the last block, which the decoders do not read'))


def _make_backbone(options: ModelOptions) -> tuple[Rule, ...]:
    name = options.backbone.name
    if name in _MOBILENET_BLOCKS:
        return _make_mobilenet(_MOBILENET_BLOCKS[name])
    return _make_resnet(getattr(make_model_backbone(options), 'block_counts', ()))


def _make_branch(branch: str, head: str) -> list[Rule]:
    """Makes the rules of a branch but for its last layers; `head` is its separable convolution."""
    aspp, layers = f'{branch}_decoder/aspp', f'{branch}_decoder/aspp/aspp_layers'
    pool = f'{layers}/4/{_LAYER}-0/{_LAYER}'
    rules: list[Rule] = [
        *_conv_norm(f'{layers}/0/{_LAYER}-0', f'{layers}/0/{_LAYER}-1', f'{aspp}/branch_0'),
        *_conv_norm(f'{pool}-0', f'{pool}-1', f'{aspp}/pool'),
        *_conv_norm(
            f'{aspp}/projection/{_LAYER}-0', f'{aspp}/projection/{_LAYER}-1', f'{aspp}/project'
        ),
    ]
    for i in (1, 2, 3):
        keys, path = f'{layers}/{i}/{_LAYER}', f'{aspp}/branch_{i}'
        rules += [
            *tensorflow_depthwise(f'{keys}-0', f'{path}/depthwise'),
            *_conv_norm(f'{keys}-1', f'{keys}-2', f'{path}/pointwise'),
        ]
    fusion = f'{branch}_head/_panoptic_deeplab_fusion/'
    for i, stride in enumerate((8, 4)):
        keys = f'{fusion}_fusion_convs/{i}/{_LAYER}'
        rules += [
            *_conv_norm(
                f'{fusion}_projection_convs/{i}',
                f'{fusion}_projection_norms/{i}',
                f'{branch}_decoder/project_stride{stride}',
            ),
            *_separable(
                (f'{keys}-0', f'{keys}-1', f'{keys}-2', f'{fusion}_fusion_norms/{i}'),
                f'{branch}_decoder/fuse_stride{stride}',
            ),
        ]
    names = ('_convs/0', '_norms/0', '_convs/1', '_norms/1')
    return [*rules, *_separable(tuple(f'{branch}_head/{name}' for name in names), head)]


def _conv_norm(conv: str, norm: str, path: str) -> tuple[Rule, ...]:
    return (*tensorflow_conv(conv, f'{path}/conv'), *tensorflow_norm(norm, f'{path}/norm'))


def _separable(keys: tuple[str, ...], path: str) -> tuple[Rule, ...]:
    """Makes the rules of depthwise and 1x1 convolution; `keys` has each before its BatchNorm."""
    depthwise, depthwise_norm, pointwise, norm = keys
    return (
        *tensorflow_depthwise(depthwise, f'{path}/depthwise/conv'),
        *tensorflow_norm(depthwise_norm, f'{path}/depthwise/norm'),
        *_conv_norm(pointwise, norm, f'{path}/pointwise'),
    )


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    del keys
    instance = 'instance_head/_instance_center'
    return make_checkpoint_rules(
        (
            *under(_make_backbone(options), keys='backbone/', path='backbone'),
            *_make_branch('semantic', 'semantic_head/fuse'),
            *tensorflow_conv('semantic_head/_classifier', 'semantic_head/predict'),
            *_make_branch('instance', 'instance_shared_head'),
            *tensorflow_conv(f'{instance}_prediction_conv', 'center_head/predict'),
            *tensorflow_conv(f'{instance}_regression_conv', 'offset_head/predict'),
        )
    )


_IMAGENET = {
    'norm_epsilon': 1e-3,
    'backbone_padding': 'same',
    'normalization': 'imagenet',
}

SOURCE = Source(
    name='model_garden',
    make_rules=_make_rules,
    presets=tuple(name for name in PRESETS if name.startswith('model_garden/')),
    backbones={
        **{
            name: (
                {
                    **_IMAGENET,
                    'stride_convention': 'detectron2',
                    'squeeze_excite_gate': 'sigmoid',
                },
            )
            for name in ('resnet50_beta', 'resnet101_beta')
        },
        **{
            name: (
                {
                    **_IMAGENET,
                    'stride_convention': 'torchvision',
                    'squeeze_excite_gate': 'rounded_hard_sigmoid',
                    'endpoints': 'last_outputs',
                },
            )
            for name in _MOBILENET_BLOCKS
        },
    },
    network_fields={
        ('coco_ids', f'model_garden/{name}_os16'): {
            'augment.max_scale': 2.0,
            'optimizer.learning_rate': 1e-3,
        }
        for name in _MOBILENET_BLOCKS
    },
)
