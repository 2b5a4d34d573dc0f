"""Several networks of the same classes as one: the mean of their outputs.

Each network sees the image as it would alone, at every scale and mirrored if asked; the means of
their passes are brought to the size of the first network's input and averaged, every network with
the same weight. The first network's rules make labels of the result. Networks that are the same but
for their variables share one compiled network, and one network's maps are in memory at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.experiment import EvaluateOptions, Experiment
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.prediction.inference import (
    Inference,
    abstract_variables,
    average_passes,
    find_input_size,
)
from pdl_jax.prediction.trained import Trained
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.storage.variables import restore_variables
from pdl_jax.systems.system import Outputs, System, Variables, image_size
from pdl_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Member:
    """A kind of network of an ensemble.

    Attributes:
      system: the network; its rules for labels do not count.
      augment: its resize and normalisation apply.
    """

    system: System
    augment: AugmentOptions


@dataclasses.dataclass(frozen=True)
class EnsembleInference(Inference):
    """The networks of an ensemble on canvases of images; for variables see `load_members`.

    Attributes:
      members: the kinds of networks; the first is that of the rest.
    """

    members: tuple[Inference, ...] = ()

    @property
    def is_adaptive(self) -> bool:
        """See `Inference.is_adaptive`; networks of an ensemble spend differently."""
        return False

    def run(self, variables: Variables, image: Array, size: Array) -> Outputs:
        """See `Inference.run`."""
        averaging = self.system.averaging
        assert averaging is not None  # See `check_member`.
        total, count = None, 0
        for i, member in enumerate(self.members):
            stacked: Any = variables[_name(i)]
            images, _ = member.prepare(image, size)
            look = functools.partial(self._look, member, split_rows(images))
            # As in `average_passes`: the maps of one network are in memory at a time.
            part = jax.lax.optimization_barrier(_add_up(look, stacked))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            count += _count(stacked)
        return averaging.from_mean(jax.tree.map(lambda x: x / count, total))

    def _look(self, member: Inference, images: Array, variables: Variables) -> Outputs:
        return _fit(average_passes(member.passes, variables, images), self.input_size)


def _add_up(look: Callable[[Variables], Outputs], stacked: Variables) -> Outputs:
    """Adds up what networks see that differ in their variables only, in one loop."""
    first = jax.tree.map(lambda x: x[0], stacked)
    if _count(stacked) == 1:
        return look(first)

    def add(total: Outputs, variables: Variables) -> tuple[Outputs, None]:
        return jax.tree.map(jnp.add, total, look(variables)), None

    shapes = eval_shape(look, first)
    total = split_rows(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    return jax.lax.scan(add, total, stacked)[0]


def _count(stacked: Variables) -> int:
    return jax.tree.leaves(stacked)[0].shape[0]


def _fit(outputs: Outputs, size: tuple[int, int]) -> Outputs:
    """Crops or extends maps to `size` (height, width); the image lies inside of all of them."""

    def fit(x: Array) -> Array:
        x = x[:, : size[0], : size[1]]
        missing = [n - m for n, m in zip(size, image_size(x), strict=True)]
        return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode='edge')

    return {name: fit(x) for name, x in outputs.items()}


def make_inference(
    system: System,
    augment: AugmentOptions,
    evaluate: EvaluateOptions,
    max_size: tuple[int, int],
    members: Sequence[Member] = (),
) -> Inference:
    """Makes the inference of a network or, with members, of an ensemble.

    Args:
      system, augment, evaluate, max_size: see `Inference.for_images`; those of the first network.
      members: the kinds of networks, the first included; () for one network.
    """
    if not members:
        return Inference.for_images(system, augment, evaluate, max_size)
    return EnsembleInference(
        system,
        augment,
        evaluate,
        find_input_size(system, augment, max_size),
        members=tuple(
            Inference.for_images(member.system, member.augment, evaluate, max_size)
            for member in members
        ),
    )


def load_members(
    first: Trained,
    checkpoints: Sequence[epath.Path],
    read: Callable[[epath.Path], Trained],
    change: Callable[[Experiment], Experiment],
    sharding: jax.sharding.Sharding,
) -> tuple[tuple[Member, ...], Variables]:
    """Loads the networks of an ensemble.

    Args:
      first: the contents of the first checkpoint.
      checkpoints: the folders of the checkpoints, the first included.
      read: reads the contents of a checkpoint.
      change: makes the changes that apply to every network, such as its dtype.
      sharding: placement of the variables.

    Returns:
      The kinds of networks, and the variables of each kind as 'network0', 'network1', ...: those
      of networks that are the same otherwise are stacked along a new first axis.

    Raises:
      ValueError: networks cannot be averaged; names the first difference.
    """
    kinds: dict[Member, list[Variables]] = {}
    for path in checkpoints:
        trained = read(path)
        check_member(first, trained, str(checkpoints[0]), str(path))
        experiment = change(trained.experiment)
        # Labels are the first network's, so that those of the others may be coded otherwise.
        system = experiment.make_system(first.spec.label_format)
        variables = restore_variables(path, abstract_variables(system), sharding)
        kinds.setdefault(Member(system, experiment.augment), []).append(variables)
    stack = jax.jit(lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees))
    stacked = (stack(*variables) for variables in kinds.values())
    return tuple(kinds), {_name(i): tree for i, tree in enumerate(stacked)}


def _name(i: int) -> str:
    return f'network{i}'


def check_member(first: Trained, other: Trained, first_name: str, other_name: str) -> None:
    """Checks that the outputs of two networks can be averaged.

    Args:
      first, other: the contents of their checkpoints.
      first_name, other_name: the checkpoints, for the message.

    Raises:
      ValueError: names what differs.
    """
    names = f'{first_name} and {other_name} cannot be averaged'
    system = first.experiment.make_system(first.spec.label_format)
    if system.averaging is None:
        raise ValueError(
            f'{names}: the outputs of {first.experiment.system.name} networks have no mean, since '
            f'their queries do not correspond; give one checkpoint'
        )
    _check_classes(first.spec, other.spec, names)
    for name, describe in _SHARED.items():
        ours, theirs = (describe(trained.experiment) for trained in (first, other))
        if ours != theirs:
            raise ValueError(f'{names}: {name} is {ours} in the first and {theirs} in the second')


# Values that the networks of an ensemble share.
_SHARED: Mapping[str, Callable[[Experiment], Any]] = {
    'the system': lambda experiment: experiment.system.name,
    'config.data.num_channels': lambda experiment: experiment.data.num_channels,
    'config.augment.resize_min_px': lambda experiment: experiment.augment.resize_min_px,
    'config.augment.resize_max_px': lambda experiment: experiment.augment.resize_max_px,
}


def _check_classes(first: DatasetSpec, other: DatasetSpec, names: str) -> None:
    ours, theirs = first.class_names, other.class_names
    if len(ours) != len(theirs):
        raise ValueError(f'{names}: the first has {len(ours)} classes, the second {len(theirs)}')
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            raise ValueError(f'{names}: class {i} is {a!r} in the first and {b!r} in the second')
    formats = first.label_format, other.label_format
    for field in ('thing_classes', 'ignore_label'):
        a, b = (getattr(label_format, field) for label_format in formats)
        if a != b:
            raise ValueError(f'{names}: {field} are {a} in the first and {b} in the second')
