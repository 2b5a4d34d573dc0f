"""Recipes of kMaX-DeepLab and of ReMaX.

The families are 'kmax_pytorch' (bytedance/kmax-deeplab) and 'kmax_deeplab2' (google-research/
deeplab2), each for COCO, Cityscapes and ADE20K, and 'remax' (Sun et al., ReMaX), whose networks
were never published: kMaX-DeepLab's with ReMask's heads, and MobileNetV3 in the place of ResNet-50.
"""

from typing import Any

from pdl_jax.presets.preset import KMAX_SYSTEM, Preset

# Of the images, the share that keeps the last residual branch of the backbone, by dataset.
_KEEP_PROBS = {
    'convnext_tiny': {'coco': 0.7, 'cityscapes': 0.8, 'ade20k': 0.7},
    'convnext_small': {'coco': 0.6, 'cityscapes': 0.7, 'ade20k': 0.6},
    'convnext_base': {'coco': 0.5, 'cityscapes': 0.6, 'ade20k': 0.5},
    'convnext_large': {'coco': 0.4, 'cityscapes': 0.4, 'ade20k': 0.3},
}
_CITYSCAPES: dict[str, Any] = {
    'decoder_blocks': ('axial', 'axial', 'bottleneck', 'bottleneck', 'bottleneck'),
    'decoder_features': (512, 256, 128, 64, 32),
    'decoder_depths': (1, 5, 1, 1, 1),
    'num_queries': 256,
    'semantic_branch': 'head',
    'has_void_logit': False,
}
_DATASETS: dict[str, dict[str, Any]] = {
    'coco': {},
    'cityscapes': _CITYSCAPES,
    'ade20k': {'transformer_keep_prob': 1.0},
}
# The stem's features come before those of the first stage, which have the same stride.
_PYTORCH_INPUTS = ('last', 'stride16', 'stride8', 'stem', 'stride4')


def _make_pytorch(backbone: str, dataset: str) -> Preset:
    model = {'backbone': backbone, 'resize': 'by_parity', **_DATASETS[dataset]}
    if backbone.startswith('resnet'):
        model['stride_convention'] = 'detectron2'
    if backbone in _KEEP_PROBS:
        model['drop_path_keep_prob'] = _KEEP_PROBS[backbone][dataset]
    if dataset == 'cityscapes':
        model['decoder_inputs'] = _PYTORCH_INPUTS
    return Preset(KMAX_SYSTEM, model)


KMAX_PRESETS: dict[str, Preset] = {
    f'kmax_pytorch/{backbone}_{dataset}': _make_pytorch(backbone, dataset)
    for backbone in ('resnet50', *_KEEP_PROBS)
    for dataset in _DATASETS
}
