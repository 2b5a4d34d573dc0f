"""Options of systems whose networks and rules presets define."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax

from pdl_jax.models.model_backbone import describe_backbone, make_model_backbone
from pdl_jax.preprocess.normalize import NORMALIZATIONS, ChannelStatistics, Normalization
from pdl_jax.presets import Preset
from pdl_jax.systems.option_fields import UnknownFieldError, refuse_unknown, set_fields
from pdl_jax.systems.system import Sections, SystemOptions
from pdl_jax.typing import suggest

# Fields of `config.model` besides those of the network.
_OWN_FIELDS = {'dtype': str, 'freeze_backbone_norm': bool}
_RULES = ('targets', 'loss', 'postprocess')


@dataclasses.dataclass(frozen=True)
class NetworkSystemOptions(SystemOptions):
    """The options of a system with a network and with rules in sections of their own.

    Attributes:
      model: the parts of the network; has a `backbone` and a `normalization`.
      targets: rules for training targets.
      loss: weights and reductions of the loss.
      postprocess: rules of the way back to labels.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.
    """

    # Types of the network's flat fields in `config.model`, and what lists and makes it from them.
    network_fields: ClassVar[Mapping[str, type]]
    list_network: ClassVar[Callable[[Any], dict[str, Any]]]
    make_network: ClassVar[Callable[..., Any]]
    # The file of configs/ that has all fields of its sections.
    base_config: ClassVar[str] = 'common'
    # Fields of `config.postprocess` that may change after training.
    inference_fields: ClassVar[tuple[str, ...]] = ()

    model: Any = None
    targets: Any = None
    loss: Any = None
    postprocess: Any = None
    freeze_backbone_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.normalization not in NORMALIZATIONS:
            raise ValueError(
                f'config.model.normalization (={self.model.normalization!r}) must be one of '
                f'{list(NORMALIZATIONS)}'
            )

    @classmethod
    def field_types(cls) -> Mapping[str, type]:
        """See `SystemOptions.field_types`."""
        return {**cls.network_fields, **_OWN_FIELDS}

    @classmethod
    def from_sections(cls, preset: Preset, sections: Sections, crop_size: tuple[int, int]) -> Self:
        """See `SystemOptions.from_sections`."""
        fields = set_fields(sections['model'])
        cls._refuse_unknown('model', fields, set(cls.field_types()))
        own = {key: fields.pop(key) for key in _OWN_FIELDS if key in fields}
        kinds = {field.name: field.default for field in dataclasses.fields(cls)}
        rules = {
            name: cls._make_rules(type(kinds[name]), name, getattr(preset, name), sections)
            for name in _RULES
        }
        return cls(crop_size=crop_size, model=cls._make_model(preset, fields), **rules, **own)

    def to_sections(self) -> dict[str, dict[str, Any]]:
        """See `SystemOptions.to_sections`."""
        own = {key: getattr(self, key) for key in _OWN_FIELDS}
        return {
            'model': {**type(self).list_network(self.model), **own},
            **{section: dataclasses.asdict(getattr(self, section)) for section in _RULES},
        }

    @property
    def normalization(self) -> Normalization:
        """See `SystemOptions.normalization`."""
        model = self.model
        if model.normalization == 'given':
            return ChannelStatistics(model.pixel_mean or (), model.pixel_deviation or ())
        return model.normalization

    @property
    def trains_backbone_norm(self) -> bool:
        """See `SystemOptions.trains_backbone_norm`."""
        return not self.freeze_backbone_norm

    @property
    def inference_values(self) -> dict[str, Any]:
        """See `SystemOptions.inference_values`."""
        return {name: getattr(self.postprocess, name) for name in self.inference_fields}

    def with_inference(self, values: Mapping[str, Any]) -> Self:
        """See `SystemOptions.with_inference`."""
        known, fields = self.inference_fields, {}
        if not known:
            return super().with_inference(values)
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f'{name} is no option of a {self.name} network; {suggest(name, known)}it has '
                    f'{", ".join(known)}'
                )
            kind = type(getattr(type(self.postprocess), name))
            kinds = numbers.Real if kind is float else numbers.Integral
            if isinstance(value, jax.Array) and kind is float:
                fields[name] = value
            elif isinstance(value, kinds) and not isinstance(value, bool):
                fields[name] = kind(value)
            else:
                raise ValueError(f'{name} (={value!r}) must be of type {kind.__name__}')
        postprocess = dataclasses.replace(self.postprocess, **fields)
        return dataclasses.replace(self, postprocess=postprocess)

    def describe_weights(self) -> dict[str, Any]:
        """See `SystemOptions.describe_weights`."""
        return describe_backbone(self.model)

    @classmethod
    def _make_model(cls, preset: Preset, fields: dict[str, Any]) -> Any:
        try:
            model = cls.make_network(preset, **fields)
            # Constructing the backbone looks its name and attributes up; nothing is computed.
            make_model_backbone(model)
        except ValueError as error:
            is_named = str(error).startswith('model.')
            where = (
                'config.' if is_named else f'config.model.backbone (={fields.get("backbone")!r}): '
            )
            raise ValueError(f'{where}{error}') from error
        return model

    @classmethod
    def _make_rules(cls, kind: type, section: str, rules: Any, sections: Sections) -> Any:
        fields = {**rules, **set_fields(sections.get(section, {}))}
        cls._refuse_unknown(section, fields, {field.name for field in dataclasses.fields(kind)})
        return kind(**fields)

    @classmethod
    def _refuse_unknown(cls, section: str, fields: Mapping[str, Any], known: set[str]) -> None:
        try:
            refuse_unknown(section, fields, known)
        except UnknownFieldError as error:
            raise UnknownFieldError(f'{error}; see configs/{cls.base_config}.py') from error
