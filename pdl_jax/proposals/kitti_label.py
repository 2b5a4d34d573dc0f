"""Lines of KITTI's object labels, as records and as text."""

import math
from typing import NamedTuple

import numpy as np

# Kinds of KITTI; the last is a region that evaluation leaves out.
KINDS = (
    'Car', 'Van', 'Truck', 'Pedestrian', 'Person_sitting', 'Cyclist', 'Tram', 'Misc', 'DontCare',
)  # fmt: skip
# Coordinates in metres and pixels are below these; larger ones are damage.
_MAX_VALUE = 1e5


class ObjectLabel(NamedTuple):
    """A labelled object.

    Attributes:
      kind: one of `KINDS`.
      truncation: share outside of the image, in [0, 1]; -1 where unknown.
      occlusion: 0 visible, 1 partly hidden, 2 largely hidden, 3 unknown; -1 for DontCare.
      image_box: (y0, x0, y1, x1) in pixels.
      box: (x, y, z, length, height, width, angle), see `overlap`.
    """

    kind: str
    truncation: float
    occlusion: int
    image_box: tuple[float, float, float, float]
    box: tuple[float, float, float, float, float, float, float]


def parse_label(line: str, where: str) -> ObjectLabel:
    """Parses a line of 15 fields, or of 16 with a score, which is ignored.

    Args:
      line: the text.
      where: file and number of the line, for error messages.

    Raises:
      ValueError: a field is missing or has a value that it cannot have.
    """
    words = line.split()
    if len(words) not in (15, 16):
        raise ValueError(
            f'{where}: {len(words)} fields, not 15 (16 with a score): give type, truncated, '
            f'occluded, alpha, four of the 2-D box, height, width, length, x, y, z, rotation_y'
        )
    kind = words[0]
    if kind not in KINDS:
        raise ValueError(f'{where}: type {kind[:40]!r} is unknown: give one of {", ".join(KINDS)}')
    values = [parse_number(word, f'{where}: field {i + 2}') for i, word in enumerate(words[1:])]
    truncation, occlusion, _, x0, y0, x1, y1, height, width, length, x, y, z, angle = values[:14]
    if occlusion not in (-1, 0, 1, 2, 3):
        raise ValueError(f'{where}: occluded {occlusion:g} must be 0, 1, 2, 3 or -1')
    if kind != 'DontCare':
        if not (truncation == -1 or 0 <= truncation <= 1):
            raise ValueError(f'{where}: truncated {truncation:g} must lie in [0, 1], or be -1')
        if min(height, width, length) <= 0:
            raise ValueError(
                f'{where}: height, width and length {height:g} {width:g} {length:g} must be '
                f'positive metres: correct the line, or give it the type DontCare'
            )
    if x1 < x0 or y1 < y0:
        raise ValueError(
            f'{where}: the 2-D box {x0:g} {y0:g} {x1:g} {y1:g} must be left, top, right, bottom'
        )
    box = x, y, z, length, height, width, angle
    return ObjectLabel(kind, truncation, int(occlusion), (y0, x0, y1, x1), box)


def parse_number(word: str, where: str) -> float:
    """Parses a number of a text file.

    Raises:
      ValueError: it is none, not finite, or larger than any coordinate.
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) < _MAX_VALUE:
        raise ValueError(
            f'{where} must be a number between -{_MAX_VALUE:g} and {_MAX_VALUE:g}, got '
            f'{word[:40]!r}: repair or download the file again'
        )
    return value


def format_label(label: ObjectLabel) -> str:
    """Formats a label as a line of KITTI."""
    x, y, z, length, height, width, angle = label.box
    y0, x0, y1, x1 = label.image_box
    alpha = (angle - math.atan2(x, z) + math.pi) % (2 * math.pi) - math.pi
    values = (alpha, x0, y0, x1, y1, height, width, length, x, y, z, angle)
    numbers = ' '.join(f'{value:.4f}' for value in values)
    return f'{label.kind} {label.truncation:.2f} {label.occlusion} {numbers}'


def stack_boxes(labels: list[ObjectLabel]) -> np.ndarray:
    """Stacks the 3-D boxes of labels: f32[N, 7]."""
    return np.array([label.box for label in labels], np.float32).reshape(-1, 7)
