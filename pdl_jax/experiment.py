"""An experiment: everything a configuration says, checked once, as frozen sections.

    experiment = Experiment.from_config(config)

Everything below the command line takes an experiment or the sections that it needs, never a
ConfigDict. `to_dict` lists the effective value of every field in the layout of the configuration,
also of those that the preset decides.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.normalize import ChannelStatistics
from pdl_jax.presets import find_preset, find_system
from pdl_jax.runtime.mesh_options import MeshOptions
from pdl_jax.systems import find_options_class
from pdl_jax.systems.option_fields import refuse_unknown
from pdl_jax.systems.system import System, SystemOptions
from pdl_jax.typing import (
    LabelFormat,
    check_not_negative,
    check_positive,
    check_regex,
    check_share,
    suggest,
)

OPTIMIZERS = ('adam', 'adamw', 'sgd')
EXTRA_METRICS = ('ap', 'pc')
# Early stopping can watch the score that ranks checkpoints, or a value of an evaluation.
STOPPING_METRICS = ('score', 'pq', 'pq_things', 'pq_stuff', 'miou', 'pixel_accuracy', 'loss')
# Services that a run can also be logged to.
TRACKERS = ('wandb', 'mlflow')

# Sections of the configuration that the system reads.
_SYSTEM_SECTIONS = ('model', 'targets', 'loss', 'postprocess')
# Names of fields in configurations of earlier versions.
RENAMED = {
    'data.is_unreadable_skipped': 'data.skip_unreadable',
    'model.is_backbone_norm_frozen': 'model.freeze_backbone_norm',
    'model.stride_dialect': 'model.stride_convention',
}


@dataclasses.dataclass(frozen=True)
class ScenesOptions:
    """Generated scenes to make where no data are; see configs/common.py."""

    num_train: int = 0
    num_eval: int = 0
    height_px: int = 192
    width_px: int = 256
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data and their reading; see configs/common.py for the fields."""

    path: str
    train_split: str = 'train'
    eval_split: str = 'val'
    num_classes: int = 0
    num_channels: int = 3
    canvas_height_px: int = 0
    canvas_width_px: int = 0
    num_workers: int = 0
    skip_unreadable: bool = False
    scenes: ScenesOptions = ScenesOptions()

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                'config.data.path is empty: give the directory that `pdl_jax prepare` wrote, for '
                'example --config.data.path=data/coco'
            )
        check_positive('data', self, 'num_channels')

    def canvas_size(self, max_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in pixels that training images are padded to.

        Args:
          max_size: (height, width) of the largest image.
        """
        return self.canvas_height_px or max_size[0], self.canvas_width_px or max_size[1]


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The optimiser and its schedule; see configs/common.py for the fields."""

    kind: str = 'adam'
    learning_rate: float = 5e-4
    backbone_learning_rate_factor: float = 1.0
    warmup_steps: int = 0
    warmup_start_factor: float = 0.0
    poly_power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 0.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_epsilon: float = 1e-7
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            raise ValueError(
                f'config.optimizer.kind (={self.kind!r}) must be one of {list(OPTIMIZERS)}'
            )
        check_positive('optimizer', self, 'learning_rate')
        check_share('optimizer', self, 'ema_decay', 'momentum', 'warmup_start_factor')
        check_not_negative('optimizer', self, 'backbone_learning_rate_factor', 'weight_decay')


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The schedule of a run; see configs/common.py for the fields.

    Attributes:
      init_checkpoint: what to start from (`config.model.init_checkpoint`).
    """

    batch_size: int = 32
    accumulation_steps: int = 1
    remat: tuple[str, ...] = ()
    num_steps: int = 60_000
    log_every_steps: int = 100
    picture_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    evaluate_every_steps: int = 10_000
    keep_checkpoints: int = 5
    early_stopping_evals: int = 0
    early_stopping_metric: str = 'score'
    max_minutes: float = 0.0
    writers: tuple[str, ...] = ()
    init_checkpoint: str = ''

    def __post_init__(self) -> None:
        check_positive(
            'train',
            self,
            'accumulation_steps',
            'batch_size',
            'checkpoint_every_steps',
            'keep_checkpoints',
            'log_every_steps',
            'num_steps',
        )
        for regex in self.remat:
            check_regex('config.train.remat', self.remat, regex)
        if self.early_stopping_metric not in STOPPING_METRICS:
            raise ValueError(
                f'config.train.early_stopping_metric (={self.early_stopping_metric!r}) must be one '
                f'of {list(STOPPING_METRICS)}'
            )
        if self.early_stopping_evals < 0 or (
            self.early_stopping_evals and not self.evaluate_every_steps
        ):
            raise ValueError(
                f'config.train.early_stopping_evals (={self.early_stopping_evals}) must not be '
                f'negative, and needs config.train.evaluate_every_steps'
            )
        check_not_negative('train', self, 'max_minutes')
        if not set(self.writers) <= set(TRACKERS):
            raise ValueError(f'config.train.writers (={self.writers!r}) may hold {TRACKERS} only')


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Inference and scoring of whole images; see configs/common.py for the fields."""

    batch_size: int = 8
    scales: tuple[float, ...] = (1.0,)
    is_flipped: bool = False
    oracle: tuple[str, ...] = ()
    extra_metrics: tuple[str, ...] = ()
    with_loss: bool = False
    crf: CrfOptions = CrfOptions()

    def __post_init__(self) -> None:
        check_positive('evaluate', self, 'batch_size')
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise ValueError(f'config.evaluate.scales (={self.scales!r}) must be positive numbers')


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a configuration says.

    Attributes:
      preset: the name of the recipe that the system's options come from.
      seed: seed of initial variables, of the order of images, of augmentation and dropout.
    """

    preset: str
    data: DataOptions
    system: SystemOptions
    augment: AugmentOptions
    optimizer: OptimizerOptions
    train: TrainOptions
    evaluate: EvaluateOptions
    mesh: MeshOptions
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.augment.normalization, ChannelStatistics):
            self.augment.normalization.check_channels(self.data.num_channels)
        if self.augment.copy_paste_probability and self.train.batch_size < 2:
            raise ValueError(
                f'config.augment.copy_paste_probability (={self.augment.copy_paste_probability}) '
                f'needs a config.train.batch_size of at least 2: segments come from another image'
            )
        has_instances = self.system.has_instances
        extra_metrics = EXTRA_METRICS if has_instances else ()
        for field, allowed in (('oracle', self.system.oracles), ('extra_metrics', extra_metrics)):
            values = getattr(self.evaluate, field)
            if not set(values) <= set(allowed):
                raise ValueError(
                    f'config.evaluate.{field} (={values!r}) may hold {list(allowed)} of this '
                    f'network only'
                )
        watched = self.train.early_stopping_metric
        if self.train.early_stopping_evals and (
            (watched.startswith('pq') and not has_instances)
            or (watched == 'loss' and not self.evaluate.with_loss)
        ):
            needed = 'config.evaluate.with_loss=True' if watched == 'loss' else 'instances'
            raise ValueError(f'config.train.early_stopping_metric (={watched!r}) needs {needed}')

    @classmethod
    def from_config(cls, config: ConfigDict) -> 'Experiment':
        """Reads a configuration, see configs/common.py.

        Raises:
          ValueError: names the field, its value and what it may be.
        """
        return cls.from_dict(config.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Experiment':
        """Reads what `to_dict` lists, or the JSON values of a configuration of any version.

        Fields that are missing have their defaults, and fields that are None the preset's.

        Raises:
          ValueError: names the field, its value and what it may be.
        """
        values = _rename(_to_tuples(values))
        _refuse_unknown_sections(values)
        model = dict(_find_section(values, 'model'))
        preset_name = model.pop('preset', 'deeplab2/resnet50_os32')
        init_checkpoint = model.pop('init_checkpoint', '')
        try:
            preset = find_preset(preset_name)
        except ValueError as error:
            raise ValueError(f'config.{error}') from error
        system_name = find_system(preset, model)
        if not system_name:
            raise ValueError(
                f'config.model.preset (={preset_name!r}) classifies whole images: choose one that '
                f'labels pixels'
            )
        augment = dict(_find_section(values, 'augment'))
        crop_size = (augment.pop('crop_height_px', 1025), augment.pop('crop_width_px', 2049))
        sections = {key: _find_section(values, key) for key in _SYSTEM_SECTIONS} | {'model': model}
        system = find_options_class(system_name).from_sections(preset, sections, crop_size)
        data = dict(_find_section(values, 'data'))
        system = dataclasses.replace(system, num_channels=data.get('num_channels', 3))
        scenes = _make_section(ScenesOptions, 'data.scenes', data.pop('scenes', {}))
        train = {**_find_section(values, 'train'), 'init_checkpoint': init_checkpoint}
        evaluate = dict(_find_section(values, 'evaluate'))
        crf = _make_section(CrfOptions, 'evaluate.crf', evaluate.pop('crf', {}))
        common = {'crop_size': crop_size, 'normalization': system.normalization}
        return cls(
            preset=preset_name,
            data=_make_section(DataOptions, 'data', {**data, 'scenes': scenes}),
            system=system,
            augment=_make_section(AugmentOptions, 'augment', {**augment, **common}),
            optimizer=_make_section(OptimizerOptions, 'optimizer', values.get('optimizer', {})),
            train=_make_section(TrainOptions, 'train', train),
            evaluate=_make_section(EvaluateOptions, 'evaluate', {**evaluate, 'crf': crf}),
            mesh=_make_section(MeshOptions, 'mesh', values.get('mesh', {})),
            seed=values.get('seed', 0),
        )

    def with_inference(self, values: Mapping[str, Any]) -> 'Experiment':
        """Changes options of the way back to labels, see `SystemOptions.with_inference`."""
        return dataclasses.replace(self, system=self.system.with_inference(values))

    def for_data(
        self, class_names: Sequence[str] | None, count_pixels: Callable[[], Any]
    ) -> 'Experiment':
        """Fills in what is left to the data, see `SystemOptions.for_data`."""
        system = self.system.for_data(class_names, count_pixels)
        return dataclasses.replace(self, system=system)

    def make_system(self, label_format: LabelFormat) -> System:
        """Makes the system for the classes of a dataset.

        Raises:
          ValueError: `data.num_classes` says otherwise.
        """
        if self.data.num_classes not in (0, label_format.num_classes):
            raise ValueError(
                f'config.data.num_classes (={self.data.num_classes}) is not that of the data, '
                f'{label_format.num_classes}: set it to 0 or choose the other data'
            )
        return self.system.make_system(label_format)

    def to_dict(self) -> dict[str, Any]:
        """Lists the effective value of every field, in the layout of the configuration."""
        augment = dataclasses.asdict(self.augment)
        height, width = augment.pop('crop_size')
        del augment['normalization']
        train = dataclasses.asdict(self.train)
        system = self.system.to_sections()
        model = {
            'preset': self.preset,
            'init_checkpoint': train.pop('init_checkpoint'),
            **system.pop('model'),
        }
        return {
            'seed': self.seed,
            'data': dataclasses.asdict(self.data),
            'model': model,
            **system,
            'augment': {'crop_height_px': height, 'crop_width_px': width, **augment},
            'optimizer': dataclasses.asdict(self.optimizer),
            'train': train,
            'evaluate': dataclasses.asdict(self.evaluate),
            'mesh': dataclasses.asdict(self.mesh),
        }

    def to_json(self) -> dict[str, Any]:
        """Lists the effective values as JSON values, for a checkpoint."""
        return json.loads(json.dumps(self.to_dict()))


def list_preset_values(config: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Lists the fields that a configuration leaves to its preset, with their effective values."""
    found = {}
    for section, fields in experiment.to_dict().items():
        if section in _SYSTEM_SECTIONS:
            given = config.get(section, {})
            found |= {
                f'{section}.{name}': value
                for name, value in fields.items()
                if given.get(name) is None and value is not None
            }
    return found


def _refuse_unknown_sections(values: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(Experiment)]
    known = sorted({*known, *_SYSTEM_SECTIONS} - {'preset', 'system'})
    for name in values:
        if name not in known:
            raise ValueError(
                f'config.{name} is unknown; {suggest(name, known)}it has {", ".join(known)}'
            )


def _find_section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f'config.{name} (={section!r}) must be a section with fields')
    return section


def _make_section(kind: type, name: str, fields: Mapping[str, Any]) -> Any:
    """Makes a section; raises ValueError for an unknown field or a value that it cannot have."""
    refuse_unknown(name, fields, {field.name for field in dataclasses.fields(kind)})
    return kind(**fields)


def _rename(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives fields of earlier versions their names of today."""
    sections = {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    for old, new in RENAMED.items():
        section, name = old.split('.')
        fields = sections.get(section)
        if isinstance(fields, dict) and name in fields:
            value = fields.pop(name)
            fields.setdefault(new.split('.')[1], value)
    return sections


def _to_tuples(value: Any) -> Any:
    """Turns lists, which JSON has, into tuples, which fields hold."""
    if isinstance(value, Mapping):
        return {key: _to_tuples(item) for key, item in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list | tuple) else value
