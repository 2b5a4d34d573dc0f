"""What training starts from: the variables of an earlier run or of converted weights, as far as they fit the network."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from pdl_jax.config import config_from_json, make_model_options
from pdl_jax.models.deeplab import make_model_backbone
from pdl_jax.models.options import ModelOptions
from pdl_jax.storage.checkpoint import find_checkpoint, read_description, read_structure
from pdl_jax.storage.variables import restore_variables
from pdl_jax.typing import PyTree

# What the weights of a backbone depend on beside their shapes, where its family has it.
_BACKBONE_ATTRIBUTES = ('stem', 'stride_dialect', 'squeeze_excite_gate', 'upsampling')
# Where nothing is dilated, as in ImageNet's classifiers, these are the same.
_SAME_STRIDES = ('torchvision', 'detectron2')


@dataclasses.dataclass(frozen=True)
class InitialReport:
    """What a network took over.

    Attributes:
      checkpoint: that it comes from.
      loaded: paths of variables, 'params/...' or 'batch_stats/...'.
      left_out: paths of variables that stay as they were drawn, each with the reason.
      is_partial: whether the checkpoint holds a part of a network, such as its backbone.
      has_folded_norm: whether BatchNorm was folded into the kernels. There are no statistics to go on with then: train with
        config.model.is_backbone_norm_frozen.
      backbone: what its weights expect of the network, see `describe_backbone`; empty where that is unknown.
    """

    checkpoint: str
    loaded: tuple[str, ...]
    left_out: dict[str, str]
    is_partial: bool
    has_folded_norm: bool
    backbone: dict[str, Any]

    def find_differences(self, options: ModelOptions) -> list[str]:
        """In what a network differs from what the weights of its backbone expect, shapes aside; one sentence each."""
        differences = []
        for field, value in describe_backbone(options).items():
            expected = self.backbone.get(field, value)
            is_same = expected == value or {expected, value} <= set(_SAME_STRIDES)
            if not is_same:
                differences.append(
                    f'the backbone was trained with {field} {expected!r}, the network has {value!r}'
                )
        return differences


def load_initial_variables(path: str, abstract_variables: PyTree) -> tuple[PyTree, InitialReport]:
    """Reads the variables of a checkpoint that fit a network.

    The backbone must fit wholly. Of the rest every variable is taken whose path and shape agree, so that the last layers of heads
    are left out where the number of classes differs, and the decoder where there is none.

    Args:
      path: as `checkpoint.find_checkpoint` takes it; written by training, of which the averaged variables are taken where it
        kept them, or by `python -m pdl_jax.convert`.
      abstract_variables: {'params', 'batch_stats'} of anything with a shape.

    Returns:
      {'params', 'batch_stats'} of NumPy float32 arrays, with the variables that fit only, and the report.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the backbone is another one.
    """
    checkpoint = find_checkpoint(path)
    structure = read_structure(checkpoint)
    prefix = (
        'ema_variables/' if any(name.startswith('ema_variables/') for name in structure) else ''
    )
    wanted = {name: tuple(x.shape) for name, x in flatten_dict(abstract_variables, sep='/').items()}
    loaded, left_out = [], {}
    for name, shape in wanted.items():
        found = structure.get(prefix + name)
        if found == shape:
            loaded.append(name)
        elif found is None:
            left_out[name] = 'not in the checkpoint'
        else:
            left_out[name] = (
                f'of shape {list(found)} in the checkpoint, {list(shape)} in the network'
            )
    lacking = [
        f'{name}: {why}' for name, why in left_out.items() if name.split('/')[1] == 'backbone'
    ]
    if lacking or not loaded:
        raise ValueError(
            f'{checkpoint} does not hold the backbone of this network: {"; ".join(lacking[:3]) or "nothing fits"} '
            f'({len(lacking)} differences). Choose the model.preset or model.backbone that it was made for'
        )
    description = read_description(checkpoint)
    origin = description.get('origin', {})
    report = InitialReport(
        checkpoint=str(checkpoint),
        loaded=tuple(loaded),
        left_out=left_out,
        is_partial=origin.get('is_partial', False),
        has_folded_norm=origin.get('has_folded_norm', False),
        backbone=origin.get('backbone') or _describe_trained(description),
    )
    return _restore(checkpoint, prefix, loaded, structure), report


def merge_variables(variables: PyTree, loaded: PyTree) -> PyTree:
    """Puts loaded variables in the place of those of the same path."""
    return unflatten_dict({**flatten_dict(variables), **flatten_dict(loaded)})


def describe_backbone(options: ModelOptions) -> dict[str, Any]:
    """What the weights of a backbone depend on beside their shapes: pixels, padding, where the strides lie, and the like."""
    module = make_model_backbone(options)
    return {
        'backbone': options.backbone,
        'normalization': options.normalization,
        'norm_epsilon': module.options.norm_epsilon,
        'padding': module.options.padding,
        **{name: getattr(module, name) for name in _BACKBONE_ATTRIBUTES if hasattr(module, name)},
    }


def _describe_trained(description):
    if 'config' not in description:
        return {}
    return describe_backbone(make_model_options(config_from_json(description['config'])))


def _restore(
    checkpoint: epath.Path, prefix: str, names: list[str], structure: dict[str, tuple[int, ...]]
) -> PyTree:
    wanted = {
        tuple(name.split('/')): jax.ShapeDtypeStruct(structure[prefix + name], np.float32)
        for name in names
    }
    restored = restore_variables(checkpoint, unflatten_dict(wanted))
    return {'params': {}, 'batch_stats': {}, **restored}
