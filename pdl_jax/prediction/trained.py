"""The experiment and the classes that a checkpoint was trained with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.pixel_format import PixelFormat, parse_value_range
from pdl_jax.experiment import Experiment
from pdl_jax.runtime.own_code import find_own_code, import_own_code, list_own_code
from pdl_jax.storage.checkpoint import read_description


@dataclasses.dataclass(frozen=True)
class Trained:
    """The content of a checkpoint's description.

    Attributes:
      experiment: everything that the configuration said.
      spec: the classes and the meaning of labels.
      description: all of it, see `storage.checkpoint.read_description`.
    """

    experiment: Experiment
    spec: DatasetSpec
    description: dict[str, Any]


def read_trained(checkpoint: epath.Path, *, code_sections: Sequence[str] = ()) -> Trained:
    """Reads what a checkpoint was trained with.

    Args:
      checkpoint: directory of the checkpoint.
      code_sections: sections of its configuration whose functions of the user's own are imported,
        which executes their modules; by default none.

    Raises:
      ValueError: the checkpoint holds a part of a network, its description is damaged, or another
        version wrote it.
    """
    description = read_description(checkpoint)
    if 'config' not in description:
        raise ValueError(
            f'{checkpoint} holds a part of a network, which only training starts from: name it in '
            f'config.model.init_checkpoint'
        )
    config = description['config']
    if isinstance(config, dict):
        import_own_code(list_own_code({key: config.get(key) for key in code_sections}))
        # Raises, and says what to do, if the network needs code that nobody imported.
        for field, name in list_own_code({'model': config.get('model')}):
            find_own_code(field, name)
    try:
        return Trained(
            Experiment.from_dict(description['config']),
            DatasetSpec.from_dict(description['dataset']),
            description,
        )
    except Exception as error:
        # Values of other types than were written fail anywhere.
        kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
        raise ValueError(
            f'{checkpoint}/description lacks or misstates a field that this version needs: '
            f'{kind}{error}'
        ) from error


def find_pixels(trained: Trained, value_range: str, source: str) -> PixelFormat:
    """Returns the pixel format of a checkpoint, with another value range if one is asked for.

    Args:
      trained: the contents of the checkpoint.
      value_range: see `Predictor.load`.
      source: the checkpoint, for error messages.

    Raises:
      ValueError: the description is damaged, or the range is none.
    """
    pixels = PixelFormat.from_dict(
        {
            'num_channels': trained.experiment.data.num_channels,
            **trained.description.get('pixels', {}),
        },
        source=f'{source}/description',
    )
    chosen = parse_value_range(value_range)
    if chosen == 'dataset':
        return pixels
    return PixelFormat(pixels.num_channels, None if isinstance(chosen, str) else chosen)
