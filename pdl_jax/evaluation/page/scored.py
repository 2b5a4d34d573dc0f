"""An evaluation as its page shows it: the report, the analysis and the learning curves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pdl_jax.evaluation.page.curves import Scalars


@dataclasses.dataclass(frozen=True)
class Scored:
    """An evaluation.

    Attributes:
      name: its name for the reader, such as the workdir and the step.
      report: see `report.make_report` or `files.file_report.make_file_report`.
      analysis: see `analysis.make_analysis`; None if there is none.
      curves: numbers of the run by name, see `read_curves`.
      class_names: name of each class by its key in the report; None if the keys are names.
    """

    name: str
    report: Mapping[str, Any]
    analysis: Mapping[str, Any] | None = None
    curves: Scalars = dataclasses.field(default_factory=dict)
    class_names: Mapping[str, str] | None = None

    @property
    def title(self) -> str:
        """The name, with the step if it is known."""
        step = self.report.get('step')
        return self.name if step is None else f'{self.name}, step {step:,}'

    def name_class(self, key: str) -> str:
        """Returns the name of a class of the report."""
        return key if self.class_names is None else self.class_names.get(key, key)

    def get(self, *path: str) -> Any:
        """Returns a value deep inside of the report, None if any part of the way is missing."""
        return look_up(self.report, *path)


def look_up(values: Any, *path: str) -> Any:
    """Returns a value deep inside of dicts, None if any part of the way is missing."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
