"""The initial variables of a run: those of an earlier run or of converted weights that fit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from pdl_jax.experiment import Experiment
from pdl_jax.prediction.trained import read_trained
from pdl_jax.runtime.own_code import are_imported, list_own_code
from pdl_jax.storage.checkpoint import find_checkpoint, read_description, read_structure
from pdl_jax.storage.variables import restore_variables
from pdl_jax.training.first_convolution import adapt_channels, is_first_convolution
from pdl_jax.training.state import TrainState
from pdl_jax.typing import PyTree

# These conventions differ in dilated layers only, so ImageNet's classifiers have the same weights.
_SAME_STRIDES = ('torchvision', 'detectron2')


@dataclasses.dataclass(frozen=True)
class InitialReport:
    """The variables that a network takes from a checkpoint.

    Attributes:
      checkpoint: the checkpoint.
      loaded: paths of the variables that are taken, 'params/...' or 'batch_stats/...'.
      left_out: paths of the variables that are drawn, each with the reason.
      is_partial: whether the checkpoint holds a part of a network, such as its backbone.
      has_folded_norm: whether BatchNorm was folded into the kernels. There are no statistics to go
        on with then: train with config.model.freeze_backbone_norm.
      expected: what the weights depend on besides their shapes, see
        `SystemOptions.describe_weights`; empty if that is unknown.
      adapted: first convolutions that were brought to another number of channels, each with both.
    """

    checkpoint: str
    loaded: tuple[str, ...]
    left_out: dict[str, str]
    is_partial: bool
    has_folded_norm: bool
    expected: dict[str, Any]
    adapted: tuple[str, ...] = ()

    def find_differences(self, network: Mapping[str, Any]) -> list[str]:
        """Compares what the weights expect with a network, shapes aside; one sentence each.

        Args:
          network: the network's `SystemOptions.describe_weights`.
        """
        differences = []
        for field, value in network.items():
            expected = self.expected.get(field, value)
            is_same = expected == value or {expected, value} <= set(_SAME_STRIDES)
            if not is_same:
                differences.append(
                    f'the backbone was trained with {field} {expected!r}, the network has {value!r}'
                )
        return differences

    def summarize(self) -> list[str]:
        """Sums up in a few lines which variables are drawn, by the module they belong to."""
        groups: dict[tuple[str, str], list[str]] = {}
        for name, reason in self.left_out.items():
            module = name.split('/')[1]
            groups.setdefault((module, 'absent' if 'not in' in reason else 'shape'), []).append(
                f'{name} ({reason})'
            )
        lines = []
        for (module, _), names in groups.items():
            more = f' and {len(names) - 1} more' if len(names) > 1 else ''
            lines.append(f'drawn: {len(names)} variables of {module}: {names[0]}{more}')
        return lines + [f'adapted: {text}' for text in self.adapted]


def initialize(experiment: Experiment, state: TrainState) -> TrainState:
    """Replaces drawn variables by those that `train.init_checkpoint` holds of the network.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the backbone does not fit, or its BatchNorm is folded and would be trained.
    """
    path = experiment.train.init_checkpoint
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    loaded, report = load_initial_variables(path, variables)
    if report.has_folded_norm and experiment.system.trains_backbone_norm:
        raise ValueError(
            f'config.model.init_checkpoint (={path!r}) holds a backbone with BatchNorm folded into '
            f'its kernels, so there are no statistics to go on training with: set '
            f'config.model.freeze_backbone_norm=True'
        )
    for difference in report.find_differences(experiment.system.describe_weights()):
        logging.warning('%s: %s', path, difference)
    total = len(jax.tree.leaves(variables))
    logging.info('%d of %d variables start from %s', len(report.loaded), total, path)
    for line in report.summarize():
        logging.info(line)

    def replace(variables: PyTree) -> PyTree:
        # A device copy of its own for each tree: the state is donated, and EMA variables must not
        # alias the parameters.
        merged = merge_variables(variables, loaded)
        return jax.tree.map(
            lambda x, old: jax.device_put(x, old.sharding, may_alias=x is old), merged, variables
        )

    if state.ema_variables is not None:
        state = dataclasses.replace(state, ema_variables=replace(state.ema_variables))
    return dataclasses.replace(state, **replace(variables))


def load_initial_variables(path: str, abstract_variables: PyTree) -> tuple[PyTree, InitialReport]:
    """Reads the variables of a checkpoint that fit a network.

    The backbone must fit wholly, except that its first convolution is adapted to another number of
    image channels. Of the rest every variable is taken whose path and shape agree, so that the last
    layers of heads are left out if the number of classes differs, and the decoder if there is none.

    Args:
      path: as `find_checkpoint` takes it; written by training, whose averaged variables are taken
        if it kept them, or by `pdl_jax convert`.
      abstract_variables: {'params', 'batch_stats'} of anything with a shape.

    Returns:
      {'params', 'batch_stats'} of NumPy float32 arrays, with the variables that fit only, and the
      report.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the backbone is another one.
    """
    checkpoint = find_checkpoint(path)
    description = read_description(checkpoint)
    num_found = description.get('config', {}).get('data', {}).get('num_channels', 3)
    structure = read_structure(checkpoint)
    has_average = any(name.startswith('ema_variables/') for name in structure)
    prefix = 'ema_variables/' if has_average else ''
    flat: dict[str, Any] = flatten_dict(abstract_variables, sep='/')
    wanted = {name: tuple(x.shape) for name, x in flat.items()}
    loaded, left_out, adapted = [], {}, []
    for name, shape in wanted.items():
        found = structure.get(prefix + name)
        if found == shape:
            loaded.append(name)
        elif found is not None and is_first_convolution(name, found, shape, num_found=num_found):
            loaded.append(name)
            adapted.append(f'{name} from {found[2]} to {shape[2]} channels')
        elif found is None:
            left_out[name] = 'not in the checkpoint'
        else:
            left_out[name] = f'shape {list(found)} in the checkpoint, {list(shape)} in the network'
    lacking = [f'{n}: {why}' for n, why in left_out.items() if n.split('/')[1] == 'backbone']
    if lacking or not loaded:
        raise ValueError(
            f'{checkpoint} does not hold the backbone of this network: '
            f'{"; ".join(lacking[:3]) or "nothing fits"} ({len(lacking)} differences). Choose the '
            f'model.preset or model.backbone that it was made for'
        )
    origin = description.get('origin', {})
    report = InitialReport(
        checkpoint=str(checkpoint),
        loaded=tuple(loaded),
        left_out=left_out,
        is_partial=origin.get('is_partial', False),
        has_folded_norm=origin.get('has_folded_norm', False),
        expected=origin.get('backbone') or _describe_trained(checkpoint, description),
        adapted=tuple(adapted),
    )
    restored: dict[str, Any] = flatten_dict(
        _restore(checkpoint, prefix, loaded, structure), sep='/'
    )
    for name in loaded:
        restored[name] = adapt_channels(restored[name], wanted[name])
    variables = unflatten_dict(restored, sep='/')
    return {'params': {}, 'batch_stats': {}, **variables}, report


def merge_variables(variables: PyTree, loaded: PyTree) -> PyTree:
    """Puts loaded variables in the place of those of the same path."""
    return unflatten_dict({**flatten_dict(variables), **flatten_dict(loaded)})


def _describe_trained(checkpoint: epath.Path, description: Mapping[str, Any]) -> dict[str, Any]:
    config = description.get('config')
    # Code that this run does not name is not imported to learn more.
    if config is None or not are_imported(list_own_code(config)):
        return {}
    return read_trained(checkpoint).experiment.system.describe_weights()


def _restore(
    checkpoint: epath.Path, prefix: str, names: list[str], structure: dict[str, tuple[int, ...]]
) -> PyTree:
    wanted = {
        tuple(name.split('/')): jax.ShapeDtypeStruct(structure[prefix + name], np.float32)
        for name in names
    }
    return restore_variables(checkpoint, unflatten_dict(wanted))
