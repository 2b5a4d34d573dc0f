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

from pdl_jax.experiment.sections import (
    EXTRA_METRICS,
    DataOptions,
    EvaluateOptions,
    OptimizerOptions,
    ScenesOptions,
    TrainOptions,
    find_requirement,
)
from pdl_jax.losses.distillation import DistillationOptions
from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.normalize import ChannelStatistics
from pdl_jax.presets import find_preset, find_system
from pdl_jax.runtime.mesh_options import MeshOptions
from pdl_jax.systems import find_options_class
from pdl_jax.systems.option_fields import UnknownFieldError, refuse_unknown
from pdl_jax.systems.system import System, SystemOptions
from pdl_jax.typing import LabelFormat, suggest

# Sections of the configuration that the system reads.
_SYSTEM_SECTIONS = ('model', 'targets', 'loss', 'postprocess')
# Sections of programs other than training, evaluation and prediction, which leave them alone.
_OTHER_SECTIONS = ('search',)
# Names of fields in configurations of earlier versions.
RENAMED = {
    'data.is_unreadable_skipped': 'data.skip_unreadable',
    'model.is_backbone_norm_frozen': 'model.freeze_backbone_norm',
    'model.stride_dialect': 'model.stride_convention',
}


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
    distill: DistillationOptions = DistillationOptions()
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
        needed = find_requirement(
            watched,
            has_instances=has_instances,
            labels_images=self.system.labels_images,
            with_loss=self.evaluate.with_loss,
        )
        if self.train.early_stopping_evals and needed:
            raise ValueError(f'config.train.early_stopping_metric (={watched!r}) needs {needed}')
        if self.augment.is_part != self.system.labels_images:
            raise ValueError(
                f'config.augment.convention (={self.augment.convention!r}) does not fit the '
                f"network: 'torchvision' is for classifiers of whole images, and for them alone"
            )

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
        augment = dict(_find_section(values, 'augment'))
        crop_size = (augment.pop('crop_height_px', 1025), augment.pop('crop_width_px', 2049))
        sections = {key: _find_section(values, key) for key in _SYSTEM_SECTIONS} | {'model': model}
        try:
            system = find_options_class(system_name).from_sections(preset, sections, crop_size)
        except UnknownFieldError as error:
            raise ValueError(
                f'{error} for the network of config.model.preset (={preset_name!r})'
            ) from error
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
            distill=_make_section(DistillationOptions, 'distill', values.get('distill', {})),
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
            'distill': dataclasses.asdict(self.distill),
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
        if name not in (*known, *_OTHER_SECTIONS):
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
