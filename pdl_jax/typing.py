"""Types shared by every layer: array aliases and the panoptic label format."""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
PyTree = Any
_FUNCTION_NAME = re.compile(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*')
# To type checkers jax.Device is a variable.
Device = Any


@dataclasses.dataclass(frozen=True)
class LabelFormat:
    """Encoding of a class and an instance as one int32 per pixel.

    panoptic = semantic * label_divisor + instance. Instance 0 is stuff, or a crowd region if the
    class is a thing; instances from 1 on are single objects. Hashable, so it can be a static
    argument of a jitted function.

    Attributes:
      num_classes: number of logits; semantic classes are 0 .. num_classes - 1.
      thing_classes: the semantic classes that have instances, ascending.
      ignore_label: semantic value of void pixels; may lie inside the classes (COCO: 0) or beyond
        them (Cityscapes: 255).
      label_divisor: exclusive upper bound of instance ids.
    """

    num_classes: int
    thing_classes: tuple[int, ...]
    ignore_label: int
    label_divisor: int

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.label_divisor < 2 or self.ignore_label < 0:
            raise ValueError(
                f'LabelFormat needs num_classes >= 1 (={self.num_classes}), label_divisor >= 2 '
                f'(={self.label_divisor}) and ignore_label >= 0 (={self.ignore_label})'
            )
        outside = [c for c in self.thing_classes if not 0 <= c < self.num_classes]
        if outside:
            raise ValueError(
                f'thing_classes {outside} lie outside the {self.num_classes} classes: '
                f'give contiguous class indices, not the ids of the annotation file'
            )
        if self.num_labels > 2**31 - 1:
            raise ValueError(
                f'{self.num_semantic_values} semantic values times label_divisor '
                f'(={self.label_divisor}) exceed int32: choose a smaller label_divisor'
            )

    @property
    def void_label(self) -> int:
        """The panoptic value of a void pixel."""
        return self.ignore_label * self.label_divisor

    @property
    def num_semantic_values(self) -> int:
        """Exclusive upper bound of semantic values, void included."""
        return max(self.num_classes, self.ignore_label + 1)

    @property
    def num_labels(self) -> int:
        """Exclusive upper bound of panoptic values."""
        return self.num_semantic_values * self.label_divisor

    @property
    def valid_classes(self) -> tuple[int, ...]:
        """The semantic classes, void excluded, ascending."""
        return tuple(c for c in range(self.num_classes) if c != self.ignore_label)

    @property
    def stuff_classes(self) -> tuple[int, ...]:
        """The semantic classes without instances, void excluded."""
        return tuple(c for c in self.valid_classes if c not in self.thing_classes)

    def thing_table(self) -> np.ndarray:
        """Returns bool[num_semantic_values], true where the semantic value is a thing."""
        table = np.zeros(self.num_semantic_values, bool)
        table[list(self.thing_classes)] = True
        return table


class MaskTargets(NamedTuple):
    """Segments of a label map as a list and a map of indices, batched or not.

    Attributes:
      segment: i32[h, w], the row of the pixel's segment in the list; -1 for void.
      label: i32[M], index of the segment's class in `LabelFormat.valid_classes`; 0 if not `valid`.
      valid: bool[M], rows that hold a segment, which come first.
      is_small: bool[M], instances below the area that makes them small.
      count: i32[], segments of the image; those beyond M are void in `segment`.
      semantic: i32[h, w], index of the pixel's class in `LabelFormat.valid_classes`; -1 for void.
    """

    segment: Array
    label: Array
    valid: Array
    is_small: Array
    count: Array
    semantic: Array


def suggest(name: str, names: Iterable[str]) -> str:
    """Words the likely intention behind an unknown name: "did you mean 'x'? ", or nothing."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f'did you mean {close[0]!r}? ' if close else ''


def check_positive(section: str, options: Any, *fields: str) -> None:
    """Checks fields of a section of the configuration.

    Raises:
      ValueError: names the first that is not positive, and its value.
    """
    for field in fields:
        value = getattr(options, field)
        if not value > 0:
            raise ValueError(f'config.{section}.{field} (={value!r}) must be positive')


def check_not_negative(section: str, options: Any, *fields: str) -> None:
    """Checks fields of a section of the configuration.

    Raises:
      ValueError: names the first that is negative or no number, and its value.
    """
    for field in fields:
        value = getattr(options, field)
        if not value >= 0:
            raise ValueError(f'config.{section}.{field} (={value!r}) must not be negative')


def check_share(section: str, options: Any, *fields: str) -> None:
    """Checks fields of a section that are shares or probabilities.

    Raises:
      ValueError: names the first that lies outside of [0, 1], and its value.
    """
    for field in fields:
        value = getattr(options, field)
        if not 0 <= value <= 1:
            raise ValueError(f'config.{section}.{field} (={value!r}) must lie in [0, 1]')


def check_regex(field: str, values: Any, regex: Any) -> None:
    """Checks one of the regular expressions that a field holds.

    Raises:
      ValueError: it is none; names the field and its value.
    """
    try:
        re.compile(regex)
    except (TypeError, re.error) as error:
        raise ValueError(
            f'{field} (={values!r}): {regex!r} is no regular expression: {error}'
        ) from error


def check_function_names(section: str, options: Any, field: str) -> None:
    """Checks a field that names functions of the user as 'module:function'; imports nothing.

    Raises:
      ValueError: it is no tuple of such names, or names a function twice.
    """
    names = getattr(options, field)
    is_named = isinstance(names, tuple) and all(
        isinstance(name, str) and _FUNCTION_NAME.fullmatch(name) for name in names
    )
    functions = [name.partition(':')[2] for name in names] if is_named else []
    if not is_named or len(set(functions)) < len(functions):
        raise ValueError(
            f"config.{section}.{field} (={names!r}) must hold names such as 'module:function', and "
            f'no function twice'
        )
