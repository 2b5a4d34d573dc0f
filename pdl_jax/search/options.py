"""The options of a search, the section `search` of a configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from pdl_jax.search.ppo import ControllerOptions
from pdl_jax.typing import check_not_negative, check_positive, check_share, suggest

METHODS = ('akd', 'nas', 'random')
LATENCIES = ('multiply_adds', 'measured')
SPACES = ('small', 'mobilenet', 'dense_prediction_cell')


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """A search of architectures.

    Attributes:
      method: 'akd', a controller rewarded for accuracy after distillation from the teacher of
        `config.distill`; 'nas', the same without a teacher; or 'random', without either.
      space: architectures of the backbone, 'small' or 'mobilenet' (see `block_space`), or of the
        'dense_prediction_cell' of a semantic network.
      num_students: architectures to try. A search that is started again with more of them goes on.
      students_per_round: architectures between two updates of the controller.
      holdout_share: share of the training images that rewards are measured on, and that no student
        is trained on.
      latency: 'multiply_adds' of one image, or the 'measured' milliseconds of a batch of
        `config.evaluate.batch_size` images on this device.
      target_latency: T of the reward, in multiply-adds or milliseconds.
      latency_exponent: w of the reward.
      mutation_share: share of random architectures that are the best one with a change.
      num_final: best students that are trained again from scratch, with the teacher whatever the
        method, and scored on the eval split.
      final_steps: length of that training.
      controller: the controller and its training.
    """

    method: str = 'akd'
    space: str = 'small'
    num_students: int = 64
    students_per_round: int = 16
    holdout_share: float = 0.2
    latency: str = 'multiply_adds'
    target_latency: float = 1e6
    latency_exponent: float = -0.07
    mutation_share: float = 0.0
    num_final: int = 0
    final_steps: int = 0
    controller: ControllerOptions = ControllerOptions()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads the section.

        Raises:
          ValueError: names the field, its value and what it may be.
        """
        given = dict(values)
        controller = given.pop('controller', {})
        for kind, name, fields in (
            (cls, 'search', given),
            (ControllerOptions, 'search.controller', controller),
        ):
            known = {field.name for field in dataclasses.fields(kind)}
            for key in fields:
                if key not in known:
                    raise ValueError(
                        f'config.{name}.{key} is unknown; {suggest(key, known)}it has '
                        f'{", ".join(sorted(known))}'
                    )
        return cls(**given, controller=ControllerOptions(**controller))

    def __post_init__(self) -> None:
        for field, choices in (('method', METHODS), ('space', SPACES), ('latency', LATENCIES)):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(f'config.search.{field} (={value!r}) must be one of {choices}')
        check_positive('search', self, 'num_students', 'students_per_round', 'target_latency')
        check_share('search', self, 'holdout_share', 'mutation_share')
        check_not_negative('search', self, 'num_final', 'final_steps')
        if self.num_final and not self.final_steps:
            raise ValueError(
                f'config.search.num_final (={self.num_final}) needs config.search.final_steps'
            )
