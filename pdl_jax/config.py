"""From a configuration to the objects it describes."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pdl_jax.losses import LossOptions
from pdl_jax.models.backbones import BACKBONES
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.decoder import DecoderOptions
from pdl_jax.models.panoptic_deeplab import PanopticDeepLab
from pdl_jax.optim import OptimizerOptions
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.normalize import NORMALIZATIONS
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.train_step import StepOptions
from pdl_jax.typing import LabelFormat

_DTYPES = ('auto', 'float32', 'bfloat16')
_CHOICES = {
    'model.backbone': sorted(BACKBONES),
    'model.output_stride': [8, 16, 32],
    'model.aspp_pooling': ['train_crop', 'global'],
    'model.backbone_padding': ['symmetric', 'same'],
    'model.dtype': _DTYPES,
    'augment.normalization': NORMALIZATIONS,
}
_POSITIVE = (
    'augment.crop_height_px',
    'augment.crop_width_px',
    'augment.min_scale',
    'evaluate.batch_size',
    'model.width_multiplier',
    'optimizer.learning_rate',
    'postprocess.max_centers',
    'postprocess.nms_kernel_px',
    'targets.max_instances',
    'targets.sigma_px',
    'train.batch_size',
    'train.checkpoint_every_steps',
    'train.keep_checkpoints',
    'train.log_every_steps',
    'train.num_steps',
)


def validate_config(config: ConfigDict) -> None:
    """Checks values that would only fail, or mislead, much later.

    Raises:
      ValueError: names the field, its value and what it may be.
    """
    for field, choices in _CHOICES.items():
        value = get_field(config, field)
        if value not in choices:
            raise ValueError(f'config.{field} (={value!r}) must be one of {list(choices)}')
    for field in _POSITIVE:
        value = get_field(config, field)
        if not value > 0:
            raise ValueError(f'config.{field} (={value!r}) must be positive')
    for field in ('loss.top_k_fraction',):
        if not 0 < get_field(config, field) <= 1:
            raise ValueError(f'config.{field} (={get_field(config, field)!r}) must lie in (0, 1]')
    for field in ('augment.flip_probability', 'optimizer.ema_decay', 'model.dropout_rate'):
        if not 0 <= get_field(config, field) <= 1:
            raise ValueError(f'config.{field} (={get_field(config, field)!r}) must lie in [0, 1]')
    if config.augment.max_scale < config.augment.min_scale:
        raise ValueError(
            f'config.augment.max_scale (={config.augment.max_scale}) must not be below '
            f'config.augment.min_scale (={config.augment.min_scale})'
        )
    if config.augment.resize_min_px and not config.augment.resize_max_px:
        # Without a limit a long image would grow beyond every fixed input size.
        raise ValueError(
            f'config.augment.resize_min_px (={config.augment.resize_min_px}) needs config.augment.resize_max_px too: '
            f'set it to the longest side that the network shall see'
        )
    if not config.data.path:
        raise ValueError(
            'config.data.path is empty: give the directory that `python -m pdl_jax.data.prepare` wrote, '
            'for example --config.data.path=data/coco'
        )


def get_field(config: ConfigDict, field: str) -> Any:
    """The value at a dotted path such as 'train.batch_size'."""
    for name in field.split('.'):
        config = config[name]
    return config


def config_to_json(config: ConfigDict) -> dict[str, Any]:
    """A plain dict for a checkpoint."""
    return json.loads(config.to_json())


def config_from_json(data: dict[str, Any]) -> ConfigDict:
    """The configuration that `config_to_json` wrote; lists become the tuples they were."""

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(restore(data)).lock()


def make_model(config: ConfigDict, num_classes: int) -> PanopticDeepLab:
    """The network that `config.model` describes."""
    m = config.model
    options = LayerOptions(_compute_dtype(m.dtype), m.norm_momentum, m.norm_epsilon)
    backbone_options = LayerOptions(
        options.dtype, m.norm_momentum, m.norm_epsilon, m.backbone_padding, m.is_backbone_norm_frozen
    )
    crop = (config.augment.crop_height_px, config.augment.crop_width_px)
    window = tuple((n - 1) // m.output_stride + 1 for n in crop)
    return PanopticDeepLab(
        num_classes=num_classes,
        backbone=m.backbone,
        output_stride=m.output_stride,
        width_multiplier=m.width_multiplier,
        aspp_rates=tuple(m.aspp_rates),
        pool_window=window if m.aspp_pooling == 'train_crop' else None,
        dropout_rate=m.dropout_rate,
        semantic_decoder=DecoderOptions(
            m.semantic_features, tuple(m.semantic_low_level_features), m.semantic_aspp_features
        ),
        instance_decoder=DecoderOptions(
            m.instance_features, tuple(m.instance_low_level_features), m.instance_aspp_features
        ),
        semantic_head_features=m.semantic_head_features,
        instance_head_features=m.instance_head_features,
        options=options,
        backbone_options=backbone_options,
    )


def make_step_options(config: ConfigDict, label_format: LabelFormat) -> StepOptions:
    """The options of the train and eval steps."""
    augment = config.augment.to_dict()
    crop_size = (augment.pop('crop_height_px'), augment.pop('crop_width_px'))
    return StepOptions(
        label_format=label_format,
        augment=AugmentOptions(crop_size=crop_size, **augment),
        targets=TargetOptions(**config.targets.to_dict()),
        loss=LossOptions(**config.loss.to_dict()),
        ema_decay=config.optimizer.ema_decay,
        seed=config.seed,
    )


def make_optimizer_options(config: ConfigDict) -> OptimizerOptions:
    """The options of the optimiser."""
    return OptimizerOptions(**config.optimizer.to_dict())


def postprocess_arguments(config: ConfigDict) -> dict[str, Any]:
    """Keyword arguments of `postprocess.panoptic.post_process`."""
    p = config.postprocess
    return {
        'center_threshold': p.center_threshold,
        'nms_kernel_px': p.nms_kernel_px,
        'max_centers': p.max_centers,
        'stuff_area_limit': p.stuff_area_limit_px,
    }


def input_size(config: ConfigDict, max_size: tuple[int, int]) -> tuple[int, int]:
    """The network input that holds every image of at most `max_size` after the configured resize.

    Args:
      config: a configuration.
      max_size: largest (height, width) of the images in pixels.

    Returns:
      (height, width), each a multiple of the output stride plus 1, so that corners stay aligned in the network.
    """
    stride = config.model.output_stride
    limit = config.augment.resize_max_px
    bound = (limit, limit) if limit else max_size
    return tuple(math.ceil(max(n - 1, 1) / stride) * stride + 1 for n in bound)


def _compute_dtype(name):
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)
