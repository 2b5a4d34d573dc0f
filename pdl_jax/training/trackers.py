"""Experiment trackers, Weights & Biases and MLflow, as further places that a run is logged to.

Each is a `MetricWriter`. A run keeps its id at the service in WORKDIR/trackers.json, so that a
resumed run goes on there. A fault of a service is told, and ends no training.
"""

import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from pdl_jax.storage.config_changes import flatten
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, read_json
from pdl_jax.storage.paths import is_remote, make_path, write_whole

_FILE = 'trackers.json'
# Project or experiment at the service, unless an environment variable names one.
_PROJECT = 'pdl_jax'
# A service that has failed so often in a row is left out.
_MAX_FAILURES = 3
# MLflow's limits: parameters per request, characters of a value, and characters in a name.
_MAX_PARAMS = 100
_MAX_PARAM_CHARACTERS = 500
_NOT_IN_NAMES = re.compile(r'[^\w\-. /]')


def check_trackers(names: Sequence[str]) -> None:
    """Checks that the packages of trackers are installed.

    Raises:
      ImportError: one is not; the message names it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f'config.train.writers (={tuple(names)!r}) needs the package {name}: pip install '
                f'{name}, or leave it out'
            )


def make_trackers(
    names: Sequence[str], workdir: str | os.PathLike, *, config: Mapping[str, Any], is_new: bool
) -> list['Tracker']:
    """Starts a run at each service, or goes on with the one of this workdir.

    Args:
      names: any of `experiment.TRACKERS`.
      workdir: the directory of the run, local or gs://; its name becomes that of the run.
      config: all fields of the configuration, as JSON values.
      is_new: true for a run without a checkpoint, which starts anew at the services too.
    """
    if not names:
        return []
    path = make_path(workdir) / _FILE
    ids = {} if is_new else _read_ids(path)
    # The ids of services that are not asked for today are kept.
    trackers = [Tracker(name, str(workdir), config, ids) for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(ids).encode())
    return trackers


class Tracker:
    """A service whose faults are told; after some in a row it is left out.

    Args:
      name: one of `experiment.TRACKERS`.
      workdir: the directory of the run.
      config: all fields of the configuration, as JSON values.
      ids: ids of the run by service; that of a new run is added.
    """

    def __init__(self, name: str, workdir: str, config: Mapping[str, Any], ids: dict[str, str]):
        self._name = name
        self._num_failures = 0
        self._service: Any = None
        try:
            self._service = _SERVICES[name](workdir, config, ids.get(name))
            ids[name] = self._service.run_id
        except Exception as error:
            logging.warning('the run is not logged to %s: %s', name, _describe(error))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers."""
        self._call('write_scalars', step, scalars)

    def show_progress(self, step: int, loss: float | None) -> None:
        """Does nothing: the services have no use for it."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes u8[H, W, 3] pictures."""
        self._call('write_images', step, images)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Does nothing: the services have the configuration as fields."""

    def flush(self) -> None:
        """Does nothing: the services send by themselves."""

    def close(self) -> None:
        """Ends the run at the service."""
        self._call('close')
        self._service = None

    def _call(self, method: str, *arguments: Any) -> None:
        if self._service is None:
            return
        try:
            getattr(self._service, method)(*arguments)
            self._num_failures = 0
        except Exception as error:
            self._num_failures += 1
            is_left_out = self._num_failures == _MAX_FAILURES
            rest = ': it is left out from here' if is_left_out else ''
            logging.warning('%s: %s failed: %s%s', self._name, method, _describe(error), rest)
            if is_left_out:
                self._service = None


class _Wandb:
    """A run of Weights & Biases; the project is WANDB_PROJECT or pdl_jax."""

    def __init__(self, workdir: str, config: Mapping[str, Any], run_id: str | None):
        wandb: Any = importlib.import_module('wandb')
        self._make_image: Callable[..., Any] = wandb.Image
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', _PROJECT),
            id=run_id,
            name=_name_run(workdir),
            resume='allow',
            # Data that has not been sent yet stays in WORKDIR/wandb.
            dir=None if is_remote(workdir) else workdir,
            config=dict(config),
        )
        self.run_id = self._run.id
        # Steps of its own would have to rise, but a killed run does some again.
        self._run.define_metric('step')
        self._run.define_metric('*', step_metric='step')

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({**scalars, 'step': step})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        pictures = {f'pictures/{key}': self._make_image(image) for key, image in images.items()}
        self._run.log({**pictures, 'step': step})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow at MLFLOW_TRACKING_URI, in MLFLOW_EXPERIMENT_NAME or pdl_jax."""

    def __init__(self, workdir: str, config: Mapping[str, Any], run_id: str | None):
        entities: Any = importlib.import_module('mlflow.entities')
        self._client: Any = importlib.import_module('mlflow').MlflowClient()
        self._make_metric: Callable[..., Any] = entities.Metric
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status='RUNNING')
            return
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(name)
        )
        run = self._client.create_run(experiment_id, run_name=_name_run(workdir))
        self.run_id = run.info.run_id
        params = [
            entities.Param(_clean(key), json.dumps(value)[:_MAX_PARAM_CHARACTERS])
            for key, value in flatten(config).items()
        ]
        for i in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=params[i : i + _MAX_PARAMS])

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._make_metric(_name_metric(key), float(value), now, step)
            for key, value in scalars.items()
            if np.isfinite(value)
        ]
        self._client.log_batch(self.run_id, metrics=metrics)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for key, image in images.items():
            name = _clean(key).replace('/', '_')
            self._client.log_image(self.run_id, image, f'pictures/step_{step:08d}/{name}.png')

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


_SERVICES: dict[str, Callable[..., Any]] = {'wandb': _Wandb, 'mlflow': _Mlflow}


def _read_ids(path: Any) -> dict[str, str]:
    try:
        values = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    except (OSError, ValueError):
        # A run that was not logged to any service before, or a damaged file.
        return {}
    values = values if isinstance(values, dict) else {}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str) and re.fullmatch(r'[\w-]{1,64}', value)
    }


def _name_run(workdir: str) -> str:
    return os.path.basename(os.path.normpath(workdir))


def _name_metric(name: str) -> str:
    # Names are paths in its file store: eval/pq cannot be a number and the folder of eval/pq/car.
    group, slash, rest = _clean(name).partition('/')
    return f'{group}{slash}{rest.replace("/", ".")}'


def _clean(name: str) -> str:
    return _NOT_IN_NAMES.sub('_', name)


def _describe(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
