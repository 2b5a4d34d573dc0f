"""Recipes of kMaX-DeepLab and of ReMaX.

The families are 'kmax_pytorch' (bytedance/kmax-deeplab) and 'kmax_deeplab2' (google-research/
deeplab2), each for COCO, Cityscapes and ADE20K, and 'remax' (Sun et al., ReMaX), whose networks
were never published: kMaX-DeepLab's with ReMask's heads, and MobileNetV3 in the place of ResNet-50.
"""

from typing import Any

from pdl_jax.presets.preset import KMAX_SYSTEM, Preset

# The share of images that keep the backbone's last residual branch in training, by dataset.
_CONVNEXT_KEEP_PROBS = {
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
_DEEPLAB2_BACKBONES: dict[str, dict[str, Any]] = {
    'resnet50': {'semantic_skip_activation': 'relu'},
    'max_s': {
        'backbone': 'max_s_gelu',
        'drop_path_keep_prob': 0.8,
        'semantic_skip_activation': 'gelu',
    },
}
# Rules of the loss that differ by dataset, those of DeepLab2 alone, and thresholds of the masks.
_LOSS: dict[str, dict[str, Any]] = {
    'coco': {},
    'cityscapes': {'instance_sample_temperature': 0.6, 'semantic_samples_px': 0},
    'ade20k': {},
}
_DEEPLAB2_LOSS = {'semantic_top_k_fraction': 0.2, 'small_instance_weight': 3.0}
_THRESHOLDS: dict[str, dict[str, Any]] = {
    'coco': {'thing_threshold': 0.7, 'stuff_threshold': 0.5, 'overlap_threshold': 0.8},
    'cityscapes': {
        'thing_threshold': 0.5,
        'stuff_threshold': 0.3,
        'overlap_threshold': 0.9,
        'mask_exponent': 0.0,
    },
    'ade20k': {'thing_threshold': 0.4, 'stuff_threshold': 0.4, 'overlap_threshold': 0.8},
}
_AREA_LIMITS: dict[str, dict[str, Any]] = {
    'coco': {'thing_area_limit_px': 400, 'stuff_area_limit_px': 6400},
    'cityscapes': {'thing_area_limit_px': 256, 'stuff_area_limit_px': 2048},
    'ade20k': {},
}


def _make_pytorch(backbone: str, dataset: str) -> Preset:
    model = {'backbone': backbone, 'resize': 'by_parity', **_DATASETS[dataset]}
    if backbone.startswith('resnet'):
        model['stride_convention'] = 'detectron2'
    if backbone in _CONVNEXT_KEEP_PROBS:
        model |= _make_convnext(backbone, dataset)
    if dataset == 'cityscapes':
        # The stem's features come before those of the first stage, which have the same stride.
        model['decoder_inputs'] = ('last', 'stride16', 'stride8', 'stem', 'stride4')
    postprocess = {'convention': 'pytorch', **_THRESHOLDS[dataset]}
    return Preset(KMAX_SYSTEM, model, loss=_LOSS[dataset], postprocess=postprocess)


def _make_deeplab2(backbone: str, dataset: str) -> Preset:
    model = {'backbone': backbone, **_DATASETS[dataset]}
    if backbone in _CONVNEXT_KEEP_PROBS:
        model |= {**_make_convnext(backbone, dataset), 'semantic_skip_activation': 'gelu'}
    else:
        model |= {'endpoints': 'unactivated', **_DEEPLAB2_BACKBONES[backbone]}
        model['decoder_inputs'] = ('stride32', 'stride16', 'stride8', 'stride4')
    if dataset == 'cityscapes':
        model['decoder_inputs'] = ('stride32', 'stride16', 'stride8', 'stride4', 'stem')
    loss = dict(_LOSS[dataset])
    if dataset == 'cityscapes':
        loss |= _DEEPLAB2_LOSS
    postprocess = {'convention': 'deeplab2', **_THRESHOLDS[dataset], **_AREA_LIMITS[dataset]}
    return Preset(KMAX_SYSTEM, model, loss=loss, postprocess=postprocess)


def _make_convnext(backbone: str, dataset: str) -> dict[str, Any]:
    keep_prob = _CONVNEXT_KEEP_PROBS[backbone][dataset]
    return {'stem_padding': 'fixed', 'drop_path_keep_prob': keep_prob}


def _make_remax(backbone: str) -> Preset:
    """Adds ReMask on four layers and ReClass to the recipe for COCO."""
    model = {'backbone': backbone, 'num_relaxed_layers': 4}
    postprocess = {'convention': 'pytorch', **_THRESHOLDS['coco']}
    loss = {'class_relaxation': 0.1}
    return Preset(KMAX_SYSTEM, model, loss=loss, postprocess=postprocess)


KMAX_PRESETS: dict[str, Preset] = {
    **{
        f'kmax_pytorch/{backbone}_{dataset}': _make_pytorch(backbone, dataset)
        for backbone in ('resnet50', *_CONVNEXT_KEEP_PROBS)
        for dataset in _DATASETS
    },
    **{
        f'kmax_deeplab2/{backbone}_{dataset}': _make_deeplab2(backbone, dataset)
        for backbone in (*_DEEPLAB2_BACKBONES, *_CONVNEXT_KEEP_PROBS)
        for dataset in _DATASETS
    },
    **{
        f'remax/{backbone}': _make_remax(backbone)
        for backbone in ('mobilenet_v3_small', 'mobilenet_v3_large', 'resnet50')
    },
}
