"""What a train step reads and writes, and a checkpoint holds."""

import flax.struct

from pdl_jax.typing import Array, PyTree


@flax.struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: i32[], finished steps.
      params: trainable parameters, float32.
      batch_stats: running statistics of BatchNorm, float32.
      opt_state: of the optimiser.
      ema_params: averaged parameters, or None without averaging.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema_params: PyTree | None = None

    @property
    def eval_variables(self) -> dict[str, PyTree]:
        """The variables to evaluate and predict with: averaged parameters where there are any."""
        params = self.params if self.ema_params is None else self.ema_params
        return {'params': params, 'batch_stats': self.batch_stats}
