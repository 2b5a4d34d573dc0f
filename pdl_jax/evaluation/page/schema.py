"""The shape of stored reports and analyses; files may come from anywhere."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pdl_jax.evaluation.analysis.analysis import FORMAT_VERSION
from pdl_jax.evaluation.analysis.causes import CAUSES
from pdl_jax.evaluation.report import COUNTS, QUALITY
from pdl_jax.storage.json_files import describe_value

_COLOR = re.compile(r'#[0-9a-f]{6}')
_BASE64 = re.compile(r'[A-Za-z0-9+/]*={0,2}')


def _is_number(value: Any) -> bool:
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    return is_plain and abs(value) < 1e300 and math.isfinite(value)


def _is_value(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_optional_count(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_base64(value: Any) -> bool:
    return isinstance(value, str) and _BASE64.fullmatch(value) is not None


def _is_color(value: Any) -> bool:
    return isinstance(value, str) and _COLOR.fullmatch(value) is not None


def _is_kind(value: Any) -> bool:
    return value in ('best', 'worst')


# A function tests a value; a dict lists fields, those with a trailing '?' may be missing or null,
# and '*' stands for all others; a list has a shape for each item, a tuple one for each place.
_QUALITY_ROW = {key: _is_value for key in QUALITY}
_COUNT_ROW = {key: _is_count for key in COUNTS}
_PARTS = {cause: _is_number for cause in CAUSES}
_SIZE = {
    'name': _is_text,
    'min_px': _is_count,
    'max_px': _is_optional_count,
    **_QUALITY_ROW,
    **_COUNT_ROW,
}
_BIN = {
    'low': _is_number,
    'high': _is_number,
    'count': _is_count,
    'score': _is_value,
    'precision': _is_value,
}
_REPORT = {
    'num_images': _is_count,
    'step?': _is_count,
    'pq?': {
        'All': {**_QUALITY_ROW, '*': _is_value},
        'Things': {**_QUALITY_ROW, '*': _is_value},
        'Stuff': {**_QUALITY_ROW, '*': _is_value},
        'per_class': {'*': {**_QUALITY_ROW, **_COUNT_ROW}},
    },
    'miou?': _is_value,
    'pixel_accuracy?': _is_value,
    'iou_per_class?': {'*': _is_value},
    'top1?': _is_value,
    'top5?': _is_value,
    'accuracy_per_class?': {'*': _is_value},
    'ap?': {'per_class': {'*': {'ap': _is_value, '*': _is_value}}, '*': _is_value},
    'pc?': {
        'All': {'*': _is_value},
        'Things': {'*': _is_value},
        'Stuff': {'*': _is_value},
        'per_class': {'*': {'pc': _is_value, '*': _is_value}},
    },
    'warnings?': [_is_text],
    'notes?': [_is_text],
    'changed?': [_is_text],
    '*': lambda value: True,
}
_ANALYSIS = {
    'version': lambda value: value == FORMAT_VERSION,
    'classes': [{'key': _is_text, 'name': _is_text, 'is_thing': _is_flag}],
    'confusion': [(_is_count, _is_count, _is_count)],
    'images': {
        'file_name': [_is_text],
        'score': [_is_value],
        **{key: [_is_count] for key in COUNTS},
    },
    'loss?': {
        'All?': _PARTS,
        'Things?': _PARTS,
        'Stuff?': _PARTS,
        'per_class': {'*': _PARTS},
    },
    'wrong_classes?': [(_is_count, _is_count, _is_count)],
    'sizes?': {'coco': [_SIZE], 'quantiles': [_SIZE]},
    'calibration?': {
        'ece': _is_number,
        'mean_score': _is_number,
        'precision': _is_number,
        'bins': [_BIN],
    },
    'error_colors?': {'*': _is_color},
    'pictures?': [
        {'kind': _is_kind, 'file_name': _is_text, 'score': _is_number, 'panels': {'*': _is_base64}}
    ],
}


def check_report(values: Any, *, source: str) -> dict[str, Any]:
    """Checks a report that was read from a file, and returns it.

    Raises:
      ValueError: names the file and the field.
    """
    _check(values, _REPORT, source, '')
    return values


def check_analysis(values: Any, *, source: str) -> dict[str, Any]:
    """Checks an analysis that was read from a file, and returns it.

    Raises:
      ValueError: names the file and the field.
    """
    _check(values, _ANALYSIS, source, '')
    images, num_classes = values['images'], len(values['classes'])
    if len({len(column) for column in images.values()}) != 1:
        _refuse(images, source, 'images')
    for field, limit in (('confusion', num_classes + 1), ('wrong_classes', num_classes)):
        for row in values.get(field) or ():
            if max(row[:2]) >= limit:
                _refuse(row, source, field)
    if values.get('loss') and len(values['loss']['per_class']) > num_classes:
        _refuse(values['loss']['per_class'], source, 'loss.per_class')
    return values


def _check(value: Any, shape: Any, source: str, place: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            _refuse(value, source, place)
        _check_fields(value, shape, source, place)
    elif isinstance(shape, list | tuple):
        if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
            _refuse(value, source, place)
        for i, item in enumerate(value):
            inner = shape[i] if isinstance(shape, tuple) else shape[0]
            _check(item, inner, source, f'{place}[{i}]')
    else:
        test: Callable[[Any], bool] = shape
        if not test(value):
            _refuse(value, source, place)


def _check_fields(
    value: Mapping[str, Any], shape: Mapping[str, Any], source: str, place: str
) -> None:
    known = set()
    for field, inner in shape.items():
        key = field.removesuffix('?')
        known.add(key)
        if field == '*' or (key != field and value.get(key) is None):
            continue
        if key not in value:
            _refuse(value, source, f'{place}.{key}'.lstrip('.'))
        _check(value[key], inner, source, f'{place}.{key}'.lstrip('.'))
    for key in value.keys() - known if '*' in shape else ():
        _check(value[key], shape['*'], source, f'{place}.{key}'.lstrip('.'))


def _refuse(value: Any, source: str, place: str) -> NoReturn:
    raise ValueError(
        f'{source}: {place[:200] or "the whole"} is not what an evaluation writes, got '
        f'{describe_value(value)}: evaluate again'
    )
