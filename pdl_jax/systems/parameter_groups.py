"""Training rules for some of the parameters of a system."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Training rules for parameters whose path matches a regex; the first match decides.

    Attributes:
      regex: searched in the path, such as 'semantic_head/predict/kernel'.
      learning_rate_factor: factor of the schedule; 0 freezes.
      weight_decay: in the place of `optimizer.weight_decay`; None keeps that.
    """

    regex: str
    learning_rate_factor: float = 1.0
    weight_decay: float | None = None
