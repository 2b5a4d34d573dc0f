"""The teacher of a run: the network of another checkpoint, for the same classes."""

import dataclasses

import jax
from absl import logging

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.experiment import Experiment
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.trained import Trained, read_trained
from pdl_jax.runtime.sharding import place_state, replicated
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.variables import restore_variables
from pdl_jax.systems.system import System
from pdl_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher.

    Attributes:
      system: the teacher's, for the classes of the data.
      variables: the teacher's, on the mesh; their shapes and shardings for a plan. They are
        arguments of the train step and no part of the training state, so no checkpoint holds them.
    """

    system: System
    variables: PyTree


def list_arguments(teacher: Teacher | None) -> tuple[PyTree, ...]:
    """Lists the arguments of a train step beside the state and the batch."""
    return () if teacher is None else (teacher.variables,)


def find_teacher(
    experiment: Experiment,
    spec: DatasetSpec,
    mesh: jax.sharding.Mesh,
    *,
    is_loaded: bool = True,
) -> Teacher | None:
    """Finds the teacher that `config.distill.teacher` names, if any.

    Args:
      experiment: the student's.
      spec: the classes of the data.
      mesh: the devices.
      is_loaded: whether to read its variables, or only their shapes, for a plan, whose data may be
        made up.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the teacher has other classes, or sees images in another way.
    """
    path = experiment.distill.teacher
    if not path:
        return None
    checkpoint = find_checkpoint(path)
    trained = read_trained(checkpoint)
    if is_loaded:
        _check_classes(path, trained.spec, spec)
    _check_images(path, trained, experiment)
    system = trained.experiment.system.make_system(spec.label_format)
    # The rules name arrays of the state; the teacher's are laid out like the student's parameters.
    abstract = place_state(abstract_variables(system), mesh, experiment.mesh.param_rules)
    if not is_loaded:
        return Teacher(system, abstract)
    variables = restore_variables(checkpoint, abstract_variables(system), replicated(mesh))
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    logging.info('learning from %s', checkpoint)
    return Teacher(system, jax.device_put(variables, shardings))


def _check_classes(path: str, taught: DatasetSpec, spec: DatasetSpec) -> None:
    fields = ('class_names', 'first_class', 'ignore_label')
    things = [s.label_format.thing_classes for s in (taught, spec)]
    is_same = all(getattr(taught, name) == getattr(spec, name) for name in fields)
    # A teacher of classes alone was trained on labels without instances, perhaps.
    if is_same and (things[0] == things[1] or not all(things)):
        return
    raise ValueError(
        f'config.distill.teacher (={path!r}) knows the {taught.num_classes} classes '
        f'{", ".join(taught.class_names[:4])}, ..., and the data have {spec.num_classes}: '
        f'{", ".join(spec.class_names[:4])}, ...: choose a teacher of the same classes in the same '
        f'order'
    )


def _check_images(path: str, trained: Trained, experiment: Experiment) -> None:
    taught = trained.experiment
    for field, theirs, ours in (
        ('data.num_channels', taught.data.num_channels, experiment.data.num_channels),
        (
            'model.normalization',
            taught.system.normalization,
            experiment.system.normalization,
        ),
    ):
        if theirs != ours:
            raise ValueError(
                f'config.distill.teacher (={path!r}) was trained with config.{field}={theirs!r}, '
                f'and the student has {ours!r}, but both see the same images: set it to that of '
                f'the teacher'
            )
