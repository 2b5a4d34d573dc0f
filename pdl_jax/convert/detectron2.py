"""Weights of detectron2's DeepLab and Panoptic-DeepLab projects, and of its ImageNet ResNets.

Networks with the backbones of bowenc0221's tools_d2 have the heads of these projects.
"""

from collections.abc import Collection, Sequence

from pdl_jax.convert import bowenc0221_backbones, caffe2
from pdl_jax.convert.layers import torch_conv, torch_conv_norm
from pdl_jax.convert.rules import Rule, ignore, under
from pdl_jax.convert.source import Source
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import PRESETS


def _conv_norm(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a convolution whose BatchNorm is its submodule."""
    return torch_conv_norm(keys, rf'{keys}\.norm', path)


def make_resnet(*, is_deep: bool) -> tuple[Rule, ...]:
    """Makes the rules of a ResNet; a deep stem has three convolutions, torchvision's one."""
    stem = (r'stem\.conv(\d)', 'stem_{1}') if is_deep else (r'stem\.conv1', 'stem')
    return (
        *_conv_norm(*stem),
        *_conv_norm(r'res(\d)\.(\d+)\.conv(\d)', 'stage{1}_block{2+1}/conv{3}'),
        *_conv_norm(r'res(\d)\.(\d+)\.shortcut', 'stage{1}_block{2+1}/shortcut'),
    )


def _make_backbone(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    name = options.backbone.name
    # Backbone-only files lack the prefix.
    prefix = r'(?:backbone\.)?'
    if not name.startswith('res'):
        return bowenc0221_backbones.make_backbone_rules(name, prefix)
    if caffe2.has_names(keys):
        return under(caffe2.make_resnet(options, keys), path='backbone')
    if options.backbone.stride_convention == 'msra':
        return ()
    rules = (
        *make_resnet(is_deep=name.endswith('beta')),
        ignore(
            r'(stem\.)?fc\..*',
            'belongs to the classifier, which a segmentation network does not have',
        ),
    )
    return under(rules, keys=prefix, path='backbone')


def _convs(keys: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a sequence of convolutions, separable or numbered."""
    return (
        *_conv_norm(rf'{keys}\.(depthwise|pointwise)', f'{path}/{{1}}'),
        *_conv_norm(rf'{keys}\.(\d)', f'{path}/conv{{1+1}}'),
    )


def _make_decoder(head: str, branch: str, skip_strides: Sequence[int]) -> list[Rule]:
    keys, path = rf'{head}\.decoder', f'{branch}_decoder'
    # DeepLabv3, which fuses no skips, has no decoder around its ASPP.
    context = rf'{keys}\.res5\.project_conv' if skip_strides else rf'{head}\.aspp'
    aspp = f'{path}/aspp'
    rules: list[Rule] = [
        *_conv_norm(rf'{context}\.convs\.([0-3])', f'{aspp}/branch_{{1}}'),
        *_conv_norm(
            rf'{context}\.convs\.([1-3])\.(depthwise|pointwise)', f'{aspp}/branch_{{1}}/{{2}}'
        ),
        *torch_conv(rf'{context}\.convs\.4\.1', f'{aspp}/pool'),
        *_conv_norm(rf'{context}\.project', f'{aspp}/project'),
    ]
    for stride in skip_strides:
        stage = rf'{keys}\.res{stride.bit_length() - 1}'
        rules += [
            *_conv_norm(rf'{stage}\.project_conv', f'{path}/project_stride{stride}'),
            *_convs(rf'{stage}\.fuse_conv', f'{path}/fuse_stride{stride}'),
        ]
    return rules


def _make_rules(options: ModelOptions, keys: Collection[str]) -> tuple[Rule, ...]:
    strides = options.skip_strides
    return (
        *_make_backbone(options, keys),
        *_make_decoder('sem_seg_head', 'semantic', strides),
        *_convs(r'sem_seg_head\.head', 'semantic_head/fuse'),
        *torch_conv(r'sem_seg_head\.predictor', 'semantic_head/predict'),
        *_make_decoder('ins_embed_head', 'instance', strides),
        *_convs(r'ins_embed_head\.center_head', 'center_head/fuse'),
        *torch_conv(r'ins_embed_head\.center_predictor', 'center_head/predict'),
        *_convs(r'ins_embed_head\.offset_head', 'offset_head/fuse'),
        *torch_conv(r'ins_embed_head\.offset_predictor', 'offset_head/predict'),
        ignore('pixel_(mean|std)', 'the normalisation of pixels, which the preset defines'),
    )


_FIELDS = {'norm_epsilon': 1e-5, 'normalization': 'imagenet', 'stride_convention': 'detectron2'}

SOURCE = Source(
    name='detectron2',
    make_rules=_make_rules,
    presets=tuple(name for name in PRESETS if name.startswith('detectron2/')),
    backbones={
        **{name: (_FIELDS, caffe2.MSRA_FIELDS) for name in ('resnet50', 'resnet101')},
        **{name: (_FIELDS,) for name in ('resnet50_beta', 'resnet101_beta', 'resnext101_32x8d')},
    },
    config_fields={
        # The crops are those of training: the ASPP pools over windows of the crop size.
        'cityscapes': {
            'augment.crop_height_px': 512,
            'augment.crop_width_px': 1024,
            'targets.sigma_px': 10.0,
            'postprocess.nms_kernel_px': 7,
            'postprocess.max_centers': 200,
            'postprocess.stuff_area_limit_px': 2048,
        },
        'coco': {
            'augment.crop_height_px': 640,
            'augment.crop_width_px': 640,
            'augment.resize_min_px': 640,
            'augment.resize_max_px': 640,
            'postprocess.nms_kernel_px': 41,
            'postprocess.max_centers': 200,
            'postprocess.stuff_area_limit_px': 4096,
        },
    },
)
