"""From a configuration to the objects it describes."""

import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pdl_jax.dialects import select_rules
from pdl_jax.losses.panoptic_deeplab import SCOPES, LossOptions
from pdl_jax.models.deeplab import PanopticDeepLab, make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.postprocess.centers import TOP_K_RULES
from pdl_jax.postprocess.panoptic import SCORE_RULES
from pdl_jax.prediction.inference import Pass
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.normalize import NORMALIZATIONS
from pdl_jax.preprocess.targets import ROUNDINGS, TargetOptions
from pdl_jax.presets import make_options
from pdl_jax.runtime.sharding import PARAM_RULES
from pdl_jax.training.optim import OPTIMIZERS, OptimizerOptions
from pdl_jax.training.step import StepOptions
from pdl_jax.typing import LabelFormat

_DTYPES = ('auto', 'float32', 'bfloat16')
_CHOICES = {
    'model.dtype': _DTYPES,
    'optimizer.kind': OPTIMIZERS,
    'targets.center_rounding': (None, *ROUNDINGS),
    'loss.scope': (None, *SCOPES),
    'postprocess.top_k_rule': (None, *TOP_K_RULES),
    'postprocess.score_rule': (None, *SCORE_RULES),
}
# What `config.model` holds beside the fields of ModelOptions.
_NOT_OPTIONS = ('preset', 'init_checkpoint', 'is_backbone_norm_frozen', 'dtype')
# Fields that came later, with what they mean where an older checkpoint lacks them.
_LATER_FIELDS = {'mesh.param_rules': (), 'train.accumulation_steps': 1, 'train.remat': ()}
_POSITIVE = (
    'augment.crop_height_px',
    'augment.crop_width_px',
    'augment.min_scale',
    'evaluate.batch_size',
    'optimizer.learning_rate',
    'postprocess.max_centers',
    'postprocess.nms_kernel_px',
    'targets.max_instances',
    'targets.sigma_px',
    'train.accumulation_steps',
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
    for field in ('augment.flip_probability', 'optimizer.ema_decay', 'optimizer.momentum'):
        if not 0 <= get_field(config, field) <= 1:
            raise ValueError(f'config.{field} (={get_field(config, field)!r}) must lie in [0, 1]')
    for regex in config.train.remat:
        _check_regex('config.train.remat', config.train.remat, regex)
    for entry in config.mesh.param_rules:
        _check_param_rule(config.mesh.param_rules, entry)
    scales = config.evaluate.scales
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(
            f'config.evaluate.scales (={scales!r}) must be positive numbers, at least one'
        )
    options = make_model_options(config)
    outputs = ('semantic', 'center', 'offset') if options.has_instances else ('semantic',)
    if not set(config.evaluate.oracle) <= set(outputs):
        raise ValueError(
            f'config.evaluate.oracle (={config.evaluate.oracle!r}) may hold {list(outputs)} of this network only'
        )
    extra_metrics = ('ap', 'pc') if options.has_instances else ()
    if not set(config.evaluate.extra_metrics) <= set(extra_metrics):
        raise ValueError(
            f'config.evaluate.extra_metrics (={config.evaluate.extra_metrics!r}) may hold {list(extra_metrics)} of this network '
            f'only'
        )
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


def _check_param_rule(rules, entry):
    field = 'config.mesh.param_rules'
    if not isinstance(entry, tuple) or len(entry) != 2:
        raise ValueError(
            f"{field} (={rules!r}) must hold pairs of a regex and a rule, such as ('opt_state/', 'largest')"
        )
    _check_regex(field, rules, entry[0])
    if entry[1] not in PARAM_RULES:
        raise ValueError(
            f'{field} (={rules!r}): the rule {entry[1]!r} must be one of {list(PARAM_RULES)}'
        )


def _check_regex(field, values, regex):
    try:
        re.compile(regex)
    except (TypeError, re.error) as error:
        raise ValueError(
            f'{field} (={values!r}): {regex!r} is no regular expression: {error}'
        ) from error


def get_field(config: ConfigDict, field: str) -> Any:
    """The value at a dotted path such as 'train.batch_size'."""
    for name in field.split('.'):
        config = config[name]
    return config


def config_to_json(config: ConfigDict) -> dict[str, Any]:
    """A plain dict for a checkpoint."""
    return json.loads(config.to_json())


def config_from_json(data: dict[str, Any]) -> ConfigDict:
    """The configuration that `config_to_json` wrote; lists become tuples again, and later fields are added."""

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(map(restore, value)) if isinstance(value, list) else value

    config = ConfigDict(restore(data))
    for field, value in _LATER_FIELDS.items():
        group, name = field.split('.')
        if group in config and name not in config[group]:
            config[group][name] = value
    return config.lock()


def make_model_options(config: ConfigDict) -> ModelOptions:
    """The preset of `config.model` with what the other fields override.

    Raises:
      ValueError: the preset is unknown or no network for pixels, or the fields contradict each other.
    """
    overrides = {key: value for key, value in config.model.items() if key not in _NOT_OPTIONS}
    overrides = {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
    try:
        options = make_options(config.model.preset, **overrides)
        # Constructing it looks at every name; nothing is computed.
        make_model_backbone(options)
    except ValueError as error:
        where = (
            'config.'
            if str(error).startswith('model.')
            else f'config.model.backbone (={config.model.backbone!r}): '
        )
        raise ValueError(f'{where}{error}') from error
    if options.normalization not in NORMALIZATIONS:
        raise ValueError(
            f'config.model.normalization (={options.normalization!r}) must be one of {list(NORMALIZATIONS)}'
        )
    if options.decoder == 'classifier':
        raise ValueError(
            f'config.model.preset (={config.model.preset!r}) classifies whole images: choose one that labels pixels'
        )
    return options


def canvas_size(config: ConfigDict, max_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) in pixels to which images are padded for training; `max_size` is that of the largest."""
    return config.data.canvas_height_px or max_size[0], config.data.canvas_width_px or max_size[1]


def has_instances(config: ConfigDict) -> bool:
    """Whether the network has an instance branch; without it, it is a semantic one."""
    return make_model_options(config).has_instances


def make_model(config: ConfigDict, num_classes: int, *, scale: float = 1.0) -> PanopticDeepLab:
    """The network that `config.model` describes.

    Args:
      config: a configuration.
      num_classes: of the data.
      scale: for images enlarged by this factor; the window that the ASPP averages over grows along.

    Raises:
      ValueError: `config.data.num_classes` says otherwise, or see `make_model_options`.
    """
    if config.data.num_classes not in (0, num_classes):
        raise ValueError(
            f'config.data.num_classes (={config.data.num_classes}) is not that of the data, {num_classes}: set it to 0 or '
            f'choose the other data'
        )
    options = make_model_options(config)
    crop = (config.augment.crop_height_px, config.augment.crop_width_px)
    return PanopticDeepLab(
        num_classes=num_classes,
        model=options,
        pool_crop=crop if scale == 1 else scale_size(crop, scale, options),
        dtype=_compute_dtype(config.model.dtype),
        is_backbone_norm_frozen=config.model.is_backbone_norm_frozen,
    )


def scale_size(size: tuple[int, int], scale: float, options: ModelOptions) -> tuple[int, int]:
    """The size of an input resized by a factor, in the grid of the network's own resizes.

    Args:
      size: (height, width) in pixels.
      scale: factor.
      options: of the network.

    Returns:
      (height, width): int((n - 1) * scale + 1) where corners are aligned (DeepLab2), else the multiple of the output stride
      that is nearest to n * scale.
    """
    if options.resize == 'corner_aligned':
        return tuple(int((n - 1) * scale + 1) for n in size)
    stride = options.output_stride
    return tuple(max(1, round(n * scale / stride)) * stride for n in size)


def make_passes(config: ConfigDict, num_classes: int, size: tuple[int, int]) -> tuple[Pass, ...]:
    """How `config.evaluate` runs the network over an input of `size` (height, width) in pixels."""
    options = make_model_options(config)
    return tuple(
        Pass(
            make_model(config, num_classes, scale=scale),
            size if scale == 1 else scale_size(size, scale, options),
            config.evaluate.is_flipped,
        )
        for scale in config.evaluate.scales
    )


def make_augment_options(config: ConfigDict) -> AugmentOptions:
    """How images are resized, cropped and normalised."""
    augment = config.augment.to_dict()
    crop_size = (augment.pop('crop_height_px'), augment.pop('crop_width_px'))
    return AugmentOptions(
        crop_size=crop_size, normalization=make_model_options(config).normalization, **augment
    )


def make_target_options(config: ConfigDict) -> TargetOptions:
    """How labels become what the heads learn."""
    return TargetOptions(**_select(config, 'targets'))


def make_step_options(config: ConfigDict, label_format: LabelFormat) -> StepOptions:
    """The options of the train step."""
    return StepOptions(
        label_format=label_format,
        augment=make_augment_options(config),
        targets=make_target_options(config),
        loss=LossOptions(**_select(config, 'loss')),
        ema_decay=config.optimizer.ema_decay,
        seed=config.seed,
        accumulation_steps=config.train.accumulation_steps,
        remat=tuple(config.train.remat),
    )


def make_optimizer_options(config: ConfigDict) -> OptimizerOptions:
    """The options of the optimiser."""
    return OptimizerOptions(**config.optimizer.to_dict())


def postprocess_arguments(config: ConfigDict) -> dict[str, Any]:
    """Keyword arguments of `postprocess.panoptic.post_process`."""
    arguments = _select(config, 'postprocess')
    arguments['stuff_area_limit'] = arguments.pop('stuff_area_limit_px')
    return arguments


def input_size(config: ConfigDict, max_size: tuple[int, int]) -> tuple[int, int]:
    """The network input that holds every image of at most `max_size` after the configured resize.

    Args:
      config: a configuration.
      max_size: largest (height, width) of the images in pixels.

    Returns:
      (height, width), each a multiple of the output stride, plus 1 where the network aligns corners.
    """
    options = make_model_options(config)
    stride = options.output_stride
    excess = 1 if options.resize == 'corner_aligned' else 0
    limit = config.augment.resize_max_px
    bound = (limit, limit) if limit else max_size
    return tuple(math.ceil(max(n - excess, 1) / stride) * stride + excess for n in bound)


def _select(config, section):
    return select_rules(config.model.preset, section, config[section].to_dict())


def _compute_dtype(name):
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)
