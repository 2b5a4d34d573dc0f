"""A search from a configuration: data, teacher, students, the file of results, and the page."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from pdl_jax.data.pixel_counts import count_class_pixels
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.experiment import Experiment
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.search.backbone_students import BackboneStudents
from pdl_jax.search.block_space import BLOCK_SPACES
from pdl_jax.search.cell_students import CellStudents
from pdl_jax.search.dense_prediction_cells import CellSpace
from pdl_jax.search.memory import hold_out, load_images
from pdl_jax.search.options import SearchOptions
from pdl_jax.search.results import format_table, rank, write_results
from pdl_jax.search.reward import compute_reward
from pdl_jax.search.search import make_proposer, search
from pdl_jax.search.space import SearchSpace, count_sequences
from pdl_jax.search.student import Environment, Student, StudentFile
from pdl_jax.storage.config_changes import find_changes
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, read_json
from pdl_jax.storage.paths import make_path, write_whole
from pdl_jax.storage.workdir_lock import lock_workdir
from pdl_jax.training.distillation import find_teacher
from pdl_jax.training.initialize import initialize
from pdl_jax.training.program import make_step_program
from pdl_jax.training.scenes import ensure_scenes
from pdl_jax.training.state import TrainState

_DESCRIPTION = 'search.json'
_STUDENTS, _FINALS = 'students.jsonl', 'finals.jsonl'
# Fields that a search may be started again with other values of.
_FREE = ('search.num_students', 'search.num_final')
_UNITS = {'multiply_adds': 'multiply-adds of an image', 'measured': 'milliseconds of a batch'}
_CELL_SPACE = 'dense_prediction_cell'


def run_search(
    experiment: Experiment,
    options: SearchOptions,
    workdir: str,
    *,
    others: Sequence[str] = (),
) -> list[Student]:
    """Searches, or goes on with the search in `workdir`, and writes its results.

    Args:
      experiment: the network around what is searched, and the training of students.
      options: the search.
      workdir: of `search.json`, `students.jsonl`, `finals.jsonl`, `search.html` and `search.svg`;
        local or gs://.
      others: workdirs of other searches, to be shown beside this one.

    Returns:
      All students, in the order of the search.

    Raises:
      ValueError: a field does not fit, or the search in `workdir` is another one.
      OSError: a file cannot be written, or another program searches in `workdir`.
    """
    _check_method(experiment, options)
    with lock_workdir(workdir):
        _describe(experiment, options, workdir)
        ensure_scenes(experiment.data)
        source = open_split(experiment.data.path, experiment.data.train_split)
        experiment = _fill_in(experiment, source)
        space = _find_space(options)
        logging.info('%d decisions, %.3g sequences', len(space.decisions), count_sequences(space))
        environment = _Lazy(experiment, options, source)
        students = search(
            space,
            environment,
            make_proposer(space, options, experiment.seed),
            options,
            StudentFile(make_path(workdir) / _STUDENTS),
        )
        _train_finals(experiment, options, source, workdir, students)
        _report(options, workdir, others)
    return students


def _check_method(experiment: Experiment, options: SearchOptions) -> None:
    if options.method == 'akd' and not experiment.distill.teacher:
        raise ValueError(
            "config.search.method (='akd') needs config.distill.teacher, the workdir of a trained "
            'network of the same classes'
        )
    if options.space == _CELL_SPACE and options.num_final:
        raise ValueError(
            f'config.search.num_final (={options.num_final}) must be 0 for cells: pdl_jax train '
            f"with --config.model.cell='...' trains one to the end"
        )


def _describe(experiment: Experiment, options: SearchOptions, workdir: str) -> None:
    """Writes what the search is, or checks that it is the one in the workdir."""
    asked = {**experiment.to_dict(), 'search': dataclasses.asdict(options)}
    asked = json.loads(json.dumps(asked))
    path = make_path(workdir) / _DESCRIPTION
    if path.exists():
        saved = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
        if not isinstance(saved, dict):
            raise ValueError(f'{path} is no description of a search: choose another --workdir')
        for change in find_changes(saved, asked):
            if change.field not in _FREE:
                raise ValueError(
                    f'config.{change.field} was {change.saved!r} in the search of {workdir} and is '
                    f'{change.asked!r} now: choose another --workdir for another search'
                )
    write_whole(path, (json.dumps(asked, indent=1) + '\n').encode())


def _fill_in(experiment: Experiment, source: RecordSource) -> Experiment:
    return experiment.for_data(source.spec.class_names, lambda: count_class_pixels(source))


def _find_space(options: SearchOptions) -> SearchSpace:
    return CellSpace() if options.space == _CELL_SPACE else BLOCK_SPACES[options.space]


class _Lazy:
    """Loads the data and the teacher when the first student is to be trained."""

    def __init__(
        self, experiment: Experiment, options: SearchOptions, source: RecordSource
    ) -> None:
        self._arguments = experiment, options, source
        self._environment: Environment | None = None

    def evaluate(self, architecture: str) -> Any:
        """See `Environment.evaluate`."""
        if self._environment is None:
            self._environment = _make_environment(*self._arguments)
        with stage('training a student'):
            return self._environment.evaluate(architecture)


def _make_environment(
    experiment: Experiment, options: SearchOptions, source: RecordSource
) -> Environment:
    images, held = hold_out(load_images(source), options.holdout_share, experiment.seed)
    is_measured = options.latency == 'measured'
    mesh = make_mesh(devices=jax.devices()[:1])
    if options.space == _CELL_SPACE:
        system = experiment.make_system(source.spec.label_format)
        with jax.set_mesh(mesh):
            state: TrainState = make_step_program(experiment, system, mesh).init()
        if not experiment.train.init_checkpoint:
            logging.warning(
                'config.model.init_checkpoint is empty: cells see the features of an encoder that '
                'was not trained'
            )
        else:
            state = initialize(experiment, state)
        return CellStudents(
            experiment, system, state.eval_variables, images, held, is_latency_measured=is_measured
        )
    # The others search without a teacher and may still name one for the end.
    teacher = find_teacher(experiment, source.spec, mesh) if options.method == 'akd' else None
    return BackboneStudents(
        experiment,
        source.spec.label_format,
        images,
        held,
        teacher=teacher,
        is_latency_measured=is_measured,
    )


def _train_finals(
    experiment: Experiment,
    options: SearchOptions,
    source: RecordSource,
    workdir: str,
    students: Sequence[Student],
) -> None:
    """Trains the best students again, with the teacher if there is one, on all images."""
    file = StudentFile(make_path(workdir) / _FINALS)
    done = {student.architecture for student in file.students}
    best = [s for s in rank(students)[: options.num_final] if s.architecture not in done]
    if not best:
        return
    train = dataclasses.replace(experiment.train, num_steps=options.final_steps)
    experiment = dataclasses.replace(experiment, train=train)
    held = open_split(experiment.data.path, experiment.data.eval_split)
    environment = BackboneStudents(
        experiment,
        source.spec.label_format,
        load_images(source),
        load_images(held),
        teacher=find_teacher(experiment, source.spec, make_mesh(devices=jax.devices()[:1])),
        is_latency_measured=options.latency == 'measured',
    )
    for student in best:
        with stage('training a student to the end'):
            accuracy, latency = environment.evaluate(student.architecture)
        reward = compute_reward(accuracy, latency, options.target_latency, options.latency_exponent)
        file.append(
            Student(
                len(file.students),
                student.tokens,
                student.architecture,
                accuracy,
                latency,
                float(reward),
            )
        )


def _report(options: SearchOptions, workdir: str, others: Sequence[str]) -> None:
    folders = [folder.rstrip('/') for folder in (workdir, *others)]
    searches, finals = (
        {folder: StudentFile(make_path(folder) / file).students for folder in folders}
        for file in (_STUDENTS, _FINALS)
    )
    write_results(workdir, searches, finals, unit=_UNITS[options.latency])
    for title, group in (('students', searches), ('final', finals)):
        for folder, students in group.items():
            if students:
                print(f'{folder}, {title}:\n{format_table(students)}')
    best = rank(finals[folders[0]] or searches[folders[0]])[0].architecture
    field = 'cell' if options.space == _CELL_SPACE else 'architecture'
    print(f"the best one for `pdl_jax train`: --config.model.{field}='{best}'")
