"""Differences between the configuration of a checkpoint and the one that is asked for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging

Sections = Mapping[str, Any]

_POOLING = "the network's pooling averages over a window of the training crop"
# Fields without which the variables of a checkpoint mean something else, and why. A section stands
# for all of its fields.
_MEANING = {
    'data.num_classes': 'the classes are others',
    'data.num_channels': 'the images have other channels',
    'model': 'the network is another one',
    'model.normalization': 'the network was trained on pixels normalised otherwise',
    'augment.crop_height_px': _POOLING,
    'augment.crop_width_px': _POOLING,
    'targets': 'the network was trained for other targets',
}
# Fields of these sections that only say how it is trained or computed.
_FREE = (
    'model.backbone_norm_momentum',
    'model.drop_path_keep_prob',
    'model.dropout_rate',
    'model.dtype',
    'model.freeze_backbone_norm',
    'model.init_checkpoint',
    'model.min_active_share',
    'model.norm_momentum',
    'targets.is_crowd_ignored',
    'targets.max_instances',
    'targets.small_instance_area_px',
    'targets.small_instance_weight',
)


@dataclasses.dataclass(frozen=True)
class Change:
    """A field that differs.

    Attributes:
      field: its name, such as 'optimizer.learning_rate'.
      saved: its value in the checkpoint.
      asked: its value now.
      reason: why the variables mean something else with it; '' for a field that may differ.
    """

    field: str
    saved: Any
    asked: Any
    reason: str = ''

    def __str__(self) -> str:
        saved, asked = (value if value != '' else "''" for value in (self.saved, self.asked))
        return f'config.{self.field}: {saved} in the checkpoint, {asked} now'


def find_changes(saved: Sections, asked: Sections) -> list[Change]:
    """Lists the fields that differ.

    Args:
      saved: the effective values of the checkpoint's configuration, see `Experiment.to_dict`.
      asked: those that are asked for.
    """
    before, now = flatten(saved), flatten(asked)
    return [
        Change(field, before.get(field), now.get(field), _find_reason(field, before, now))
        for field in {**before, **now}
        if before.get(field) != now.get(field)
    ]


def check_changes(changes: list[Change], *, is_allowed: bool, advice: str) -> None:
    """Logs each change, and refuses those that change the meaning of the variables.

    Args:
      changes: see `find_changes`.
      is_allowed: refuse none.
      advice: the user's next step, for the error.

    Raises:
      ValueError: the meaning changes.
    """
    for change in changes:
        logging.warning('%s', change)
    refused = [change for change in changes if change.reason]
    if refused and not is_allowed:
        others = f', and {len(refused) - 1} more such fields' if refused[1:] else ''
        raise ValueError(f'{refused[0]}: {refused[0].reason}{others}. {advice}')


def flatten(sections: Sections, prefix: str = '') -> dict[str, Any]:
    """Lists fields by their names with those of their sections, such as 'train.num_steps'."""
    fields = {}
    for name, value in sections.items():
        if isinstance(value, Mapping):
            fields |= flatten(value, f'{prefix}{name}.')
        else:
            fields[f'{prefix}{name}'] = value
    return fields


def _find_reason(field: str, saved: Sections, asked: Sections) -> str:
    if field in _FREE:
        return ''
    if field == 'data.num_classes' and 0 in (saved.get(field), asked.get(field)):
        # 0 stands for the number of the data.
        return ''
    if field.startswith('augment.crop_') and saved.get('model.aspp_pooling') != 'train_crop':
        return ''
    return _MEANING.get(field) or _MEANING.get(field.partition('.')[0], '')
