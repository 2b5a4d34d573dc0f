"""Scores a checkpoint on the eval split of its experiment, or of another one."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.evaluation.evaluator import Evaluator, check_same_classes, warn_of_other_range
from pdl_jax.evaluation.report import format_report, write_report
from pdl_jax.evaluation.tuning import Tuning, tune
from pdl_jax.experiment import Experiment
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.tuned import use_tuned, write_tuned
from pdl_jax.runtime.processes import choose_together
from pdl_jax.runtime.sharding import make_mesh, replicated
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.storage.variables import restore_variables
from pdl_jax.typing import Device


def evaluate_checkpoint(
    experiment: Experiment | None,
    workdir: str,
    *,
    checkpoint: str,
    write_predictions: bool = False,
    tune_names: Sequence[str] | None = None,
    tune_metric: str = 'pq',
    is_tuned: bool = True,
    devices: Sequence[Device] | None = None,
) -> dict[str, Any]:
    """Scores a checkpoint on the eval split; prints the table and writes workdir/report.json.

    Args:
      experiment: gives the data and the network, which must fit the checkpoint; None takes the one
        that the checkpoint was saved with.
      workdir: where the report and the predictions go.
      checkpoint: a workdir or one step of it.
      write_predictions: write the predictions to the workdir, see `prediction.formats`.
      tune_names: options to search first, see `tuning.tune`; the best are written beside the
        checkpoint and used from then on. None searches nothing.
      tune_metric: the score that the search raises.
      is_tuned: use options that an earlier search found, where `experiment` is None.
      devices: by default all.

    Raises:
      FileNotFoundError: there is no such checkpoint or split.
      ValueError: the checkpoint has other classes or another architecture, or is a part of one.
    """
    path = epath.Path(choose_together(functools.partial(find_checkpoint, checkpoint)))
    description = read_description(path)
    if 'config' not in description:
        raise ValueError(f'{path} holds a part of a network, which only training starts from')
    if experiment is None:
        experiment = Experiment.from_dict(description['config'])
        if is_tuned and tune_names is None:
            experiment = use_tuned(experiment, path)
    source = open_split(experiment.data.path, experiment.data.eval_split)
    check_same_classes(description['dataset'], source, path)
    warn_of_other_range(description, source, path)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.space, devices=devices)
    system = experiment.make_system(source.spec.label_format)
    variables = restore_variables(path, abstract_variables(system), replicated(mesh))
    if tune_names is not None:
        tuning = tune(experiment, source, mesh, variables, names=tune_names, metric=tune_metric)
        _report_tuning(tuning, experiment, source, path, tune_metric)
        experiment = experiment.with_inference(tuning.values)
        system = experiment.make_system(source.spec.label_format)
    evaluator = Evaluator(
        experiment, system, source, mesh, predictions_dir=workdir if write_predictions else ''
    )
    report = evaluator(variables)
    assert report is not None  # Nothing stops this evaluation.
    if jax.process_index() == 0:
        write_report(report, os.path.join(workdir, 'report.json'))
        print(f'{path} on {source}:\n{format_report(report)}')
    return report


def _report_tuning(
    tuning: Tuning, experiment: Experiment, source: RecordSource, path: epath.Path, metric: str
) -> None:
    """Prints the result of a search, and writes it beside the checkpoint."""
    if jax.process_index() > 0:
        return
    before = experiment.system.inference_values
    changes = ', '.join(
        f'{name} {before[name]} -> {value}' if value != before[name] else f'{name} stays {value}'
        for name, value in tuning.values.items()
    )
    print(
        f'tuned on {source}: {metric} {tuning.before:.1%} -> {tuning.after:.1%} with {changes}',
        flush=True,
    )
    origin = {'metric': metric, 'before': tuning.before, 'after': tuning.after}
    split = experiment.data.eval_split
    file = write_tuned(path, tuning.values, **origin, split=split, num_images=len(source))
    print(f'written to {file}: evaluate and predict use these values of {path} from now on')
