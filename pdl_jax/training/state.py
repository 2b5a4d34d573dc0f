"""The training state: read and written by a train step, and saved in checkpoints."""

import flax.struct

from pdl_jax.typing import Array, PyTree


@flax.struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: i32[], finished steps.
      params: trainable parameters, float32.
      batch_stats: running statistics of BatchNorm, float32.
      opt_state: the optimiser's state.
      ema_variables: averaged {'params', 'batch_stats'}, or None without averaging. The statistics
        are averaged too, because those of the newest parameters do not fit the averaged ones.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema_variables: dict[str, PyTree] | None = None

    @property
    def eval_variables(self) -> dict[str, PyTree]:
        """The variables to evaluate and predict with: the averaged ones if there are any."""
        if self.ema_variables is not None:
            return self.ema_variables
        return {'params': self.params, 'batch_stats': self.batch_stats}
