"""The scalars of a run, read one step late and checked to be finite."""

import contextlib
from collections.abc import Mapping

import jax
import numpy as np

from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.typing import Array


class ScalarWatch:
    """Reads the scalars of a step while the next one runs, so that the device never waits.

    Args:
      checkpointer: names the last good checkpoint in the error.
    """

    def __init__(self, checkpointer: Checkpointer):
        self._checkpointer = checkpointer
        self._pending: tuple[int, Mapping[str, Array]] | None = None
        self._latest: dict[str, float] = {}

    def push(self, step: int, scalars: Mapping[str, Array]) -> dict[str, float]:
        """Takes the scalars of a step that was started; returns those of the step before.

        Raises:
          FloatingPointError: the loss or the gradient norm of the step before is not finite.
        """
        before = self.read()
        self._pending = step, scalars
        return before

    def read(self) -> dict[str, float]:
        """Waits for the latest step and returns its scalars.

        Raises:
          FloatingPointError: its loss or gradient norm is not finite.
        """
        if self._pending is not None:
            step, scalars = self._pending
            self._pending = None
            self._latest = {key: float(value) for key, value in jax.device_get(scalars).items()}
            self._check(step)
        return dict(self._latest)

    def _check(self, step: int) -> None:
        loss, norm = self._latest['loss'], self._latest['gradient_norm']
        if np.isfinite(loss) and np.isfinite(norm):
            return
        with contextlib.suppress(OSError):
            self._checkpointer.wait()
        good = self._checkpointer.latest_step
        where = 'there is no checkpoint yet'
        if good is not None:
            where = f'the last good checkpoint is step {good} in {self._checkpointer.directory}'
        raise FloatingPointError(
            f'step {step} has loss {loss} and gradient norm {norm}; {where}. Lower '
            f'config.optimizer.learning_rate, raise warmup_steps or set clip_norm, then run again.'
        )
