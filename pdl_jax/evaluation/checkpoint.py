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
from pdl_jax.prediction.ensemble import load_members
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
    checkpoint: str | Sequence[str],
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
      checkpoint: a workdir or one step of it; several make an ensemble, see `prediction.ensemble`,
        whose report is report_ensemble.json.
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
      The report, see `make_report`, with the 'step', or the 'checkpoints' of an ensemble, and as
      'changed' a line for each field that
      changes the meaning of the variables, if any does.

    Raises:
      FileNotFoundError: there is no such checkpoint or split.
      ValueError: the workdir is an address that cannot be written; or the checkpoint has other
        classes or another architecture, or is a part of one, or its variables would mean something
        else; or several cannot be averaged.
    """
    refuse_address(workdir)
    paths = [
        epath.Path(choose_together(functools.partial(find_checkpoint, name, step)))
        for name in ([checkpoint] if isinstance(checkpoint, str) else checkpoint)
    ]
    path, is_ensemble = paths[0], len(paths) > 1
    change = experiment if callable(experiment) else _keep
    if is_ensemble and (tune_names is not None or not (experiment is None or callable(experiment))):
        raise ValueError('several checkpoints are averaged as they are: leave out --config, --tune')
    read = functools.partial(read_trained, code_sections=CODE_SECTIONS if allow_code else ())
    trained = read(path)
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
    experiment = _fill_in(experiment, source)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.space, devices=devices)
    system = experiment.make_system(source.spec.label_format)
    members, sharding = (), replicated(mesh)
    with stage('reading the checkpoint'):
        if is_ensemble:
            members, variables = load_members(trained, paths, read, change, sharding)
        else:
            variables = restore_variables(path, abstract_variables(system), sharding)
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
        members=members,
    )
    report = evaluator(variables)
    assert report is not None  # Nothing stops this evaluation.
    report = {**_describe(paths), **report}
    if changed := [str(change) for change in changes if change.reason]:
        report['changed'] = changed
    analysis = evaluator.analyze() if has_page else None
    if jax.process_index() == 0:
        name = 'ensemble' if is_ensemble else path.name
        files = write_evaluation(report, analysis, workdir, step=name)
        if not is_run(workdir):
            write_evaluation(report, analysis, workdir)
        written = ' and '.join(str(file) for file in files)
        shown = ' and '.join(map(str, paths))
        print(f'{shown} on {source}:\n{format_report(report)}\nwrote {written}')
    return report


def _fill_in(experiment: Experiment, source: RecordSource) -> Experiment:
    """Fills in class weights if targets are made."""
    if not experiment.evaluate.with_loss and not experiment.evaluate.oracle:
        return experiment
    # Those of a checkpoint are numbers already; a configuration may ask for frequencies.
    data = experiment.data
    return experiment.for_data(
        source.spec.class_names,
        lambda: count_class_pixels(open_split(data.path, data.train_split)),
    )


def _keep(experiment: Experiment) -> Experiment:
    return experiment


def _describe(paths: Sequence[epath.Path]) -> dict[str, Any]:
    """Describes what is scored: the step of a checkpoint, or the checkpoints of an ensemble."""
    if len(paths) > 1:
        return {'checkpoints': [str(path) for path in paths]}
    return {'step': _find_step(paths[0])}


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
