"""Scores a checkpoint on the eval split of its experiment, or of another one."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from pdl_jax.data.pixel_counts import count_class_pixels
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.evaluation.evaluator import Evaluator, check_same_classes, warn_of_other_range
from pdl_jax.evaluation.report import format_report
from pdl_jax.evaluation.report_files import write_evaluation
from pdl_jax.evaluation.tuning import Tuning, tune
from pdl_jax.experiment import Experiment
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.trained import read_trained
from pdl_jax.prediction.tuned import use_tuned, write_tuned
from pdl_jax.runtime.own_code import CODE_SECTIONS
from pdl_jax.runtime.processes import choose_together
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import make_mesh, replicated
from pdl_jax.storage.checkpoint import find_checkpoint, is_run
from pdl_jax.storage.config_changes import check_changes, find_changes
from pdl_jax.storage.paths import refuse_address
from pdl_jax.storage.variables import restore_variables
from pdl_jax.typing import Device

_ADVICE = (
    'Leave out --config and such fields to evaluate as it was trained, or give --allow_changed'
)


def evaluate_checkpoint(
    experiment: Experiment | Callable[[Experiment], Experiment] | None,
    workdir: str,
    *,
    checkpoint: str,
    step: int | str | None = None,
    allow_changed: bool = False,
    write_predictions: bool = False,
    tune_names: Sequence[str] | None = None,
    tune_metric: str = 'pq',
    is_tuned: bool = True,
    allow_code: bool = False,
    has_page: bool = True,
    devices: Sequence[Device] | None = None,
) -> dict[str, Any]:
    """Scores a checkpoint on the eval split; prints the table and writes the report.

    That is workdir/report_STEP.json, and workdir/report.json too unless a run, whose report that
    is, has its checkpoints there. The analysis and the page lie beside it, see `report_files`.

    Args:
      experiment: gives the data and the network, which must fit the checkpoint; None takes the one
        that the checkpoint was saved with, and a function makes one from that. Each difference is
        logged.
      workdir: where the report and the predictions go.
      checkpoint: a workdir or one step of it.
      step: the step of a workdir, 'best' or 'last', see `find_checkpoint`.
      allow_changed: take an experiment that changes the meaning of the checkpoint's variables.
      write_predictions: write the predictions to the workdir, see `prediction.formats`.
      tune_names: options to search first, see `tuning.tune`; the best are written beside the
        checkpoint and used from then on. None searches nothing.
      tune_metric: the score that the search raises.
      is_tuned: use the options that an earlier search found, below those of the function.
      allow_code: import the functions that the checkpoint's own configuration names.
      has_page: write the analysis and the HTML page too.
      devices: by default all.

    Returns:
      The report, see `make_report`, with the 'step', and as 'changed' a line for each field that
      changes the meaning of the variables, if any does.

    Raises:
      FileNotFoundError: there is no such checkpoint or split.
      ValueError: the workdir is an address that cannot be written; or the checkpoint has other
        classes or another architecture, or is a part of one, or its variables would mean something
        else.
    """
    refuse_address(workdir)
    path = epath.Path(choose_together(functools.partial(find_checkpoint, checkpoint, step)))
    trained = read_trained(path, code_sections=CODE_SECTIONS if allow_code else ())
    base = trained.experiment
    if is_tuned and tune_names is None:
        base = use_tuned(base, path)
    asked = experiment(base) if callable(experiment) else experiment
    experiment = asked or base
    changes = find_changes(trained.experiment.to_dict(), experiment.to_dict())
    check_changes(changes, is_allowed=allow_changed, advice=_ADVICE)
    source = open_split(experiment.data.path, experiment.data.eval_split)
    check_same_classes(trained.spec.to_dict(), source, path)
    warn_of_other_range(trained.description, source, path)
    if experiment.evaluate.with_loss or experiment.evaluate.oracle:
        # Those of a checkpoint are numbers already; a configuration may ask for frequencies.
        data = experiment.data
        experiment = experiment.for_data(
            source.spec.class_names,
            lambda: count_class_pixels(open_split(data.path, data.train_split)),
        )
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.space, devices=devices)
    system = experiment.make_system(source.spec.label_format)
    with stage('reading the checkpoint'):
        variables = restore_variables(path, abstract_variables(system), replicated(mesh))
    if tune_names is not None:
        tuning = tune(experiment, source, mesh, variables, names=tune_names, metric=tune_metric)
        _report_tuning(tuning, experiment, source, path, tune_metric)
        experiment = experiment.with_inference(tuning.values)
        system = experiment.make_system(source.spec.label_format)
    evaluator = Evaluator(
        experiment,
        system,
        source,
        mesh,
        predictions_dir=workdir if write_predictions else '',
        has_scores=has_page,
    )
    report = evaluator(variables)
    assert report is not None  # Nothing stops this evaluation.
    report = {'step': _find_step(path), **report}
    if changed := [str(change) for change in changes if change.reason]:
        report['changed'] = changed
    analysis = evaluator.analyze() if has_page else None
    if jax.process_index() == 0:
        files = write_evaluation(report, analysis, workdir, step=path.name)
        if not is_run(workdir):
            write_evaluation(report, analysis, workdir)
        written = ' and '.join(str(file) for file in files)
        print(f'{path} on {source}:\n{format_report(report)}\nwrote {written}')
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


def _find_step(checkpoint: epath.Path) -> int | None:
    """Returns the step by the name of its folder, which a user may have changed."""
    return int(checkpoint.name) if checkpoint.name.isdecimal() else None
