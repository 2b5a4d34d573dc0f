"""Background as a class of its own, for labels that mark objects and leave the rest void."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord
from pdl_jax.data.categories import Category

_GREY = (128, 128, 128)


def add_background(source: AnnotatedSplit, name: str = 'background') -> AnnotatedSplit:
    """Turns the void pixels of a split into a stuff class, which comes last.

    Where objects are the only class, a network without it learns to call every pixel an object.

    Args:
      source: the split.
      name: name of the class.

    Raises:
      ValueError: the split has a class of that name.
    """
    spec = source.spec
    if name in spec.class_names:
        raise ValueError(
            f'--background={name} is the name of a class already: choose another name, or leave '
            f'the flag out'
        )
    category = Category(max(c.id for c in spec.categories) + 1, name, False, _GREY)
    categories = (*spec.categories, category)
    wider = dataclasses.replace(
        spec,
        categories=categories,
        ignore_label=max(spec.ignore_label, spec.first_class + len(categories)),
    )
    label = wider.class_of_category[category.id] * wider.label_divisor
    load = functools.partial(
        _load_with_background, load=source.load, void=spec.label_format.void_label, label=label
    )
    return dataclasses.replace(source, spec=wider, load=load)


def _load_with_background(
    item: Any, *, load: Callable[[Any], LoadedRecord], void: int, label: int
) -> LoadedRecord:
    record = load(item)
    panoptic = np.where(record.panoptic == void, np.int32(label), record.panoptic)
    return dataclasses.replace(record, panoptic=panoptic)
