"""The end of a run whose evaluations do not improve any more."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pdl_jax.experiment import Experiment
from pdl_jax.runtime.processes import share_array
from pdl_jax.training.log_file import read_log


class EarlyStopping:
    """Counts the evaluations since the best one.

    Args:
      metric: name of the value, such as 'eval/pq'; lower is better if it is a loss.
      max_evals: evaluations without a better value that end a run; 0 never ends one.
    """

    def __init__(self, metric: str, max_evals: int):
        self._metric, self._max_evals = metric, max_evals
        self._sign = -1.0 if metric.startswith('eval/loss') else 1.0
        self._best = -math.inf
        self._best_step = 0
        self._last_step = 0
        self._num_worse = 0

    @classmethod
    def resume(cls, experiment: Experiment, workdir: str, *, step: int) -> 'EarlyStopping':
        """Counts what a run logged up to a step in WORKDIR/metrics.jsonl; the same everywhere.

        Args:
          experiment: names the value.
          workdir: local or gs://.
          step: finished steps of the run.
        """
        train = experiment.train
        name = train.early_stopping_metric
        if name == 'score':
            name = 'pq' if experiment.system.has_instances else 'miou'
            if experiment.system.labels_images:
                name = 'top1'
        self = cls(f'eval/{name}', train.early_stopping_evals)
        if not train.early_stopping_evals:
            return self
        for past, values in read_log(workdir) if step else ():
            if past <= step and any(key.startswith('eval/') for key in values):
                self.push(past, values)
        # Processes other than the first may not see its file yet.
        counts = (self._best, self._best_step, self._last_step, self._num_worse)
        best, *numbers = share_array(np.array(counts, np.float64)).tolist()
        self._best, (self._best_step, self._last_step, self._num_worse) = best, map(int, numbers)
        return self

    @property
    def is_due(self) -> bool:
        """Whether the run should end."""
        return 0 < self._max_evals <= self._num_worse

    def push(self, step: int, values: Mapping[str, Any]) -> None:
        """Counts an evaluation; a step that was counted before is not counted again.

        Args:
          step: finished steps.
          values: what was logged; an undefined value is no better than any.
        """
        if step <= self._last_step:
            return
        self._last_step = step
        value = values.get(self._metric)
        if value is not None and self._sign * value > self._best:
            self._best, self._best_step, self._num_worse = self._sign * value, step, 0
        else:
            self._num_worse += 1

    def describe(self) -> str:
        """Says why the run ends."""
        best = f'{self._sign * self._best:.4g} at step {self._best_step}'
        return (
            f'{self._metric} has not improved for {self._num_worse} evaluations: the best was '
            f'{best if math.isfinite(self._best) else "none"} '
            f'(config.train.early_stopping_evals={self._max_evals})'
        )
