"""Agreement of the splits of a data set, which are prepared one by one."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.data import catalog, records, split_directory
from pdl_jax.data.annotated_split import AnnotatedSplit, LoadedRecord


def match_siblings(source: AnnotatedSplit, directory: epath.Path) -> AnnotatedSplit:
    """Returns a split with the label divisor of the splits beside its place, if theirs is larger.

    Own data get a divisor that their fullest image needs; training needs the same for all splits.
    Tells if the splits do not agree.

    Args:
      source: the split that will be prepared.
      directory: the place of the prepared split.
    """
    if not directory.parent.is_dir():
        return source
    spec = source.spec
    for sibling in sorted(directory.parent.iterdir()):
        if sibling == directory or not split_directory.is_complete(sibling):
            continue
        try:
            other = catalog.DatasetSpec.from_dict(records.read_metadata(sibling)['spec'])
        except ValueError:
            # A damaged split is told of when it is read.
            continue
        if other.class_names != spec.class_names or other.first_class != spec.first_class:
            print(
                f'note: {os.fspath(sibling)} has the classes {_list_names(other)}, this split has '
                f'{_list_names(spec)}: training needs the same in the same order; where the format '
                f'takes --classes, pass one list to both'
            )
        elif other.label_divisor < spec.label_divisor:
            print(
                f'note: {os.fspath(sibling)} has room for {other.label_divisor - 1} objects of a '
                f'class in an image, this split for {spec.label_divisor - 1}: prepare '
                f'{sibling.name} again with --overwrite, so that both agree'
            )
        elif other.ignore_label == spec.ignore_label:
            spec = dataclasses.replace(spec, label_divisor=other.label_divisor)
    if spec == source.spec:
        return source
    load = functools.partial(
        _load, load=source.load, before=source.spec.label_divisor, after=spec.label_divisor
    )
    return dataclasses.replace(source, spec=spec, load=load)


def _load(
    item: Any, *, load: Callable[[Any], LoadedRecord], before: int, after: int
) -> LoadedRecord:
    """Loads an item and gives its label another divisor."""
    record = load(item)
    semantic, instance = np.divmod(record.panoptic, before)
    return dataclasses.replace(record, panoptic=semantic * after + instance)


def _list_names(spec: catalog.DatasetSpec) -> str:
    return ', '.join(spec.class_names[:6]) + ', ...' * (len(spec.class_names) > 6)
