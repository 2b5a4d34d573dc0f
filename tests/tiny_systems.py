"""The smallest network of every system, as fields of a configuration of the package."""

from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.systems.system import System
from pdl_jax.typing import LabelFormat
from tests import toy_backbone

_TRAINING = {
    'data.scenes.num_train': 0,
    'augment.crop_height_px': 65,
    'augment.crop_width_px': 65,
    'train.batch_size': 8,
    'train.num_steps': 2,
    'train.log_every_steps': 1,
    'train.picture_every_steps': 2,
    'train.evaluate_every_steps': 2,
    'evaluate.batch_size': 8,
}
_BACKBONE = {'model.backbone': toy_backbone.NAME}
_DECODERS = {
    **_BACKBONE,
    'model.aspp_rates': (2,),
    'model.semantic_features': 8,
    'model.semantic_low_level_features': (8, 8),
    'model.semantic_aspp_features': 8,
    'model.semantic_head_features': 8,
}
# The configuration and its fields, by the name of a system or of a network with its own ways.
SYSTEMS = {
    'panoptic_deeplab': (
        'scenes',
        {
            **_DECODERS,
            'model.instance_features': 8,
            'model.instance_low_level_features': (8, 8),
            'model.instance_aspp_features': 8,
            'model.instance_head_features': 8,
            'targets.max_instances': 16,
            'postprocess.max_centers': 16,
        },
    ),
    'semantic_deeplab': ('scenes', {**_DECODERS, 'model.has_instances': False}),
    'semantic_deeplab of two stages': (
        'scenes_spgnet',
        {'model.width_multiplier': 0.125, 'model.semantic_features': 8},
    ),
    'semantic_deeplab of several scales': (
        'voc_deeplab_v2',
        {
            **_BACKBONE,
            'model.aspp_rates': (1, 2),
            'model.freeze_backbone_norm': False,
            'data.num_classes': 14,
            'data.train_split': 'train',
            'data.num_workers': 0,
            'train.accumulation_steps': 1,
        },
    ),
    'classification': (
        'scenes_classes',
        {**_BACKBONE, 'model.backbone_padding': 'symmetric', 'augment.resize_min_px': 65},
    ),
    'deeperlab': (
        'scenes_deeperlab',
        {
            **_BACKBONE,
            'model.fusion': 'conv3x3',
            'model.head_conv': 'conv3x3',
            'model.aspp_features': 8,
            'model.head_features': 8,
            'model.aspp_rates': (2,),
            'model.fusion_features': 128,
            'targets.max_instances': 16,
            'postprocess.max_candidates': 16,
            'postprocess.max_instances': 16,
        },
    ),
    'kmax_deeplab': (
        'scenes_kmax',
        {
            **_BACKBONE,
            'model.decoder_inputs': ('last', 'stride8'),
            'model.decoder_blocks': ('axial', 'bottleneck'),
            'model.decoder_features': (8, 8),
            'model.decoder_depths': (1, 1),
            'model.transformer_depths': (1,),
            'model.num_queries': 16,
            'model.query_features': 16,
            'model.ffn_features': 16,
            'model.mask_features': 8,
            'model.num_heads': 2,
            'model.num_relaxed_layers': 1,
            'loss.class_relaxation': 0.1,
            'loss.instance_samples_px': 64,
            'targets.max_segments': 16,
            'postprocess.thing_threshold': 0.0,
            'postprocess.stuff_threshold': 0.0,
        },
    ),
    'max_deeplab': (
        'coco_max_deeplab',
        {
            'model.backbone': 'resnet18',
            'model.width_multiplier': 0.125,
            'model.output_stride': 16,
            'model.endpoints': 'unactivated',
            'model.num_queries': 16,
            'model.query_features': 16,
            'model.ffn_features': 16,
            'model.mask_features': 8,
            'model.num_heads': 2,
            'loss.instance_samples_px': 64,
            'targets.max_segments': 16,
            'postprocess.thing_threshold': 0.0,
            'postprocess.stuff_threshold': 0.0,
            'data.num_classes': 14,
            'data.canvas_height_px': 0,
            'data.canvas_width_px': 0,
            'data.num_workers': 0,
            'augment.resize_min_px': 0,
            'augment.resize_max_px': 0,
        },
    ),
}


def system_flags(name: str, **changes) -> list[str]:
    """Returns the flags of a command that set the configuration (dots in names as `__`)."""
    config, fields = SYSTEMS[name]
    fields = {**_TRAINING, **fields, **{k.replace('__', '.'): v for k, v in changes.items()}}
    return [f'--config={config}', *(f'--config.{key}={value}' for key, value in fields.items())]


def make_tiny_system(name: str, label_format: LabelFormat, **changes) -> System:
    """Makes the system for a label format of its own."""
    config, *flags = system_flags(name, data__path='unused', **changes)
    loaded = load_config(config.removeprefix('--config='), flags)
    return Experiment.from_config(loaded).system.make_system(label_format)
