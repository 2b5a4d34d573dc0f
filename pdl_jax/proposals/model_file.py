"""Files of what was learned of classes: JSON that names its version and all units."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pdl_jax import __version__
from pdl_jax.data.json_fields import get_field, get_integer
from pdl_jax.proposals.class_model import ClassModel, make_class_model
from pdl_jax.proposals.options import GridOptions
from pdl_jax.proposals.potentials import NAMES
from pdl_jax.storage.json_files import MAX_DESCRIPTION_BYTES, describe_value, read_json
from pdl_jax.storage.paths import make_path, write_whole

_VERSION = 1
_MAX_TEMPLATES = 64
_FIT_AGAIN = 'write it anew with `pdl_jax propose --fit`'


def write_models(
    path: str | os.PathLike, models: Mapping[str, ClassModel], origin: Mapping[str, Any]
) -> None:
    """Writes what was learned.

    Args:
      path: the file, local or gs://.
      models: by class.
      origin: where it comes from, as JSON values.

    Raises:
      OSError: the file cannot be written.
    """
    content = {
        'version': _VERSION,
        'program': f'pdl_jax {__version__}',
        'origin': dict(origin),
        'classes': {name: _to_json(model) for name, model in models.items()},
    }
    file = make_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f'{json.dumps(content, indent=1)}\n'.encode())


def read_models(path: str | os.PathLike, options: GridOptions) -> dict[str, ClassModel]:
    """Reads what was learned.

    Args:
      path: the file, local or gs://.
      options: the grid, which limits the sizes of templates.

    Returns:
      Models by class.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: a field is missing, or has a value that it cannot have.
    """
    name = os.fspath(path)
    content = read_json(path, max_bytes=MAX_DESCRIPTION_BYTES)
    version = get_integer(content, 'version', name)
    if version != _VERSION:
        raise ValueError(f'{name}: version {version} is not {_VERSION}: {_FIT_AGAIN}')
    classes = get_field(content, 'classes', Mapping, name)
    if not classes:
        raise ValueError(f'{name} has no classes: {_FIT_AGAIN}')
    return {
        key: _from_json(value, f'{name}: {describe_value(key)}', options)
        for key, value in classes.items()
    }


def _to_json(model: ClassModel) -> dict[str, Any]:
    return {
        'templates_m': np.asarray(model.templates_m, float).round(4).tolist(),
        'height_mean_m': float(model.height_mean_m),
        'height_deviation_m': float(model.height_deviation_m),
        'bottom_deviation_m': float(model.bottom_deviation_m),
        'weights': dict(zip(NAMES, np.asarray(model.weights, float).tolist(), strict=True)),
    }


def _from_json(value: Any, where: str, options: GridOptions) -> ClassModel:
    templates = get_field(value, 'templates_m', list, where)
    if not 1 <= len(templates) <= _MAX_TEMPLATES:
        raise ValueError(
            f'{where}: templates_m has {len(templates)} sizes, not 1 .. {_MAX_TEMPLATES}'
        )
    sizes = []
    for row, template in enumerate(templates):
        place = f'{where}: templates_m[{row}]'
        if not isinstance(template, list) or len(template) != 3:
            raise ValueError(
                f'{place} must be [length, height, width], got {describe_value(template)}'
            )
        limits = {'low': options.voxel_m / 2, 'high': options.max_side_m}
        sizes.append(
            tuple(_get_number({'side': side}, 'side', place, **limits) for side in template)
        )
    weights = get_field(value, 'weights', Mapping, where)
    numbers = [_get_number(weights, key, f'{where}: weights') for key in NAMES]
    positive = {'low': 1e-3, 'high': 100.0}
    return make_class_model(
        sizes,
        (
            _get_number(value, 'height_mean_m', where),
            _get_number(value, 'height_deviation_m', where, **positive),
        ),
        _get_number(value, 'bottom_deviation_m', where, low=0.0, high=100.0),
        tuple(numbers),  # pyright: ignore[reportArgumentType] - there are four.
    )


def _get_number(value: Any, key: str, where: str, *, low: float = -1e6, high: float = 1e6) -> float:
    number = get_field(value, key, (int, float), where)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(
            f'{where}: {key} {describe_value(number)} must lie in {low:g} .. {high:g}: {_FIT_AGAIN}'
        )
    return float(number)
