"""Panoptic labels from objects that may overlap: smaller ones lie on top."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pdl_jax.data import catalog
from pdl_jax.data.regions import Patch, Region, unite

# A crowd lies below every object, whatever its size.
_CROWD_RANK = 2**40
# Pixels that the boxes of all objects of an image may take: 32 layers of the largest image.
MAX_DRAWN_PX = 2**31

_BLOCK_PX = 2**18

OVERLAPPED = '{} objects are partly covered by smaller ones, which lie on top'
HIDDEN = '{} objects are wholly covered by smaller ones: left out'
EMPTY = '{} objects enclose no pixel of their image: left out'


class AnnotatedObject(NamedTuple):
    """An object as an annotation file gives it.

    Attributes:
      semantic: semantic class; `ignore_label` where pixels of no class are outlined.
      regions: parts of the object.
      is_crowd: whether the regions hold several objects that are not told apart.
      where: place in the annotation file, for error messages.
    """

    semantic: int
    regions: tuple[Region, ...]
    is_crowd: bool
    where: str

    def draw(self, size: tuple[int, int]) -> Patch:
        """Returns the pixels of the object in an image of (height, width) `size`.

        Raises:
          ValueError: a region does not fit the size.
        """
        try:
            return unite([region.draw(size) for region in self.regions])
        except ValueError as error:
            raise ValueError(f'{self.where}: {error}') from error


class ObjectCanvas:
    """An image to which objects are added in any order; the smaller one of two lies on top."""

    def __init__(self, size: tuple[int, int], num_objects: int, name: str) -> None:
        """Starts empty.

        Args:
          size: (height, width) in pixels.
          num_objects: the largest number of objects that will be added.
          name: name of the annotation, for error messages.
        """
        # Columns are contiguous, as in what draws polygons and run lengths.
        self._owner = np.zeros(size, np.int32, order='F')
        self._areas = np.zeros(num_objects + 1, np.int64)
        # Row 0 stands for pixels without an object.
        self._ranks = np.full(num_objects + 1, np.iinfo(np.int64).max)
        self._classes: list[int] = []
        self._is_crowd: list[bool] = []
        self._drawn_px = 0
        self._name = name

    def add(self, patch: Patch, classes: Sequence[int], *, is_crowd: bool = False) -> None:
        """Adds the objects 1 .. len(classes) of a patch.

        Args:
          patch: their pixels.
          classes: semantic class of each.
          is_crowd: whether they are crowds, which lie below all objects.

        Raises:
          ValueError: the objects of the image take too many pixels together.
        """
        height, width = patch.ids.shape
        self._drawn_px += patch.ids.size
        if self._drawn_px > MAX_DRAWN_PX:
            raise ValueError(
                f'{self._name}: the objects of one image take over {MAX_DRAWN_PX} pixels together, '
                f'which no real image has: check the annotation'
            )
        before = len(self._classes)
        self._classes.extend(classes)
        self._is_crowd.extend([is_crowd] * len(classes))
        new = slice(before + 1, before + 1 + len(classes))
        if len(classes) == 1:
            areas = np.count_nonzero(patch.ids)
        else:
            areas = np.bincount(patch.ids.ravel(), minlength=len(classes) + 1)[1:]
        self._areas[new] = areas
        self._ranks[new] = areas + _CROWD_RANK * is_crowd
        owner = self._owner[patch.top : patch.top + height, patch.left : patch.left + width]
        ids = np.asfortranarray(patch.ids)
        for columns in _cut(width, height):
            part, block = ids[:, columns], owner[:, columns]
            if len(classes) == 1:
                is_on_top = (part > 0) & (self._ranks[before + 1] < self._ranks[block])
                np.copyto(block, before + 1, where=is_on_top)
                continue
            number = part.astype(np.int32) + before
            is_on_top = (part > 0) & (self._ranks[number] < self._ranks[block])
            np.copyto(block, number, where=is_on_top)

    def make_label(
        self, base: np.ndarray | int, spec: catalog.DatasetSpec
    ) -> tuple[np.ndarray, Mapping[str, int]]:
        """Makes the panoptic label.

        Objects of a thing class are numbered from 1 within the class, in the order of addition;
        crowds, stuff and void have instance 0.

        Args:
          base: panoptic label of pixels without an object, i32[H, W] or one for all.
          spec: classes and label format.

        Returns:
          The label i32[H, W], and what should be told: wording with {} -> count.

        Raises:
          ValueError: a class has more visible objects than `label_divisor` allows.
        """
        height, width = self._owner.shape
        visible = np.zeros(len(self._areas), np.int64)
        for columns in _cut(width, height):
            numbers = self._owner[:, columns].ravel(order='K')
            visible += np.bincount(numbers, minlength=len(visible))
        is_thing = spec.label_format.thing_table()
        labels = np.zeros(len(self._areas), np.int32)
        counts: dict[int, int] = {}
        remarks = {OVERLAPPED: 0, HIDDEN: 0, EMPTY: 0}
        for number, (semantic, is_crowd) in enumerate(
            zip(self._classes, self._is_crowd, strict=True), start=1
        ):
            is_object = bool(is_thing[semantic]) and not is_crowd
            if not self._areas[number]:
                remarks[EMPTY] += 1
            elif is_object and not visible[number]:
                remarks[HIDDEN] += 1
            elif is_object and visible[number] < self._areas[number]:
                remarks[OVERLAPPED] += 1
            instance = 0
            if is_object and visible[number]:
                instance = counts[semantic] = counts.get(semantic, 0) + 1
            labels[number] = semantic * spec.label_divisor + instance
        catalog.check_num_instances(counts, spec, self._name)
        if np.ndim(base) == 0:
            labels[0] = base
        label = np.empty((height, width), np.int32)
        for rows in _cut(height, width):
            label[rows] = labels[self._owner[rows]]
        if np.ndim(base):
            np.copyto(label, base, where=self._owner == 0)
        return label, {wording: count for wording, count in remarks.items() if count}


def _cut(number: int, length: int) -> list[slice]:
    """Cuts rows or columns into blocks: what is computed for all pixels would not fit the cache."""
    step = max(1, _BLOCK_PX // max(1, length))
    return [slice(start, start + step) for start in range(0, number, step)]


def label_objects(
    objects: Sequence[AnnotatedObject],
    *,
    size: tuple[int, int],
    base: np.ndarray | int,
    spec: catalog.DatasetSpec,
    name: str,
) -> tuple[np.ndarray, Mapping[str, int]]:
    """Draws all objects of an image; see `ObjectCanvas.make_label`.

    Args:
      objects: the objects.
      size: (height, width) of the image in pixels.
      base: panoptic label of pixels without an object, i32[H, W] or one for all.
      spec: classes and label format.
      name: name of the image, for error messages.

    Raises:
      ValueError: a region does not fit the size, or the objects are too many or too large.
    """
    canvas = ObjectCanvas(size, len(objects), name)
    for item in objects:
        canvas.add(item.draw(size), [item.semantic], is_crowd=item.is_crowd)
    return canvas.make_label(base, spec)


def count_most(objects_of_images: Sequence[Sequence[AnnotatedObject]]) -> int:
    """Returns the largest number of objects of one class in one image."""
    most = 0
    for objects in objects_of_images:
        counts: dict[int, int] = {}
        for item in objects:
            counts[item.semantic] = counts.get(item.semantic, 0) + 1
        most = max(most, *counts.values()) if counts else most
    return most


def find_majorities(numbers: np.ndarray, classes: np.ndarray) -> dict[int, int]:
    """Returns number -> most frequent class, in the order of numbers; the lowest class on ties.

    Args:
      numbers: integer[N] >= 0, number of each pixel's object.
      classes: integer[N] >= 0, class of each pixel.
    """
    num_classes = int(classes.max(initial=0)) + 1
    pairs, counts = np.unique(numbers.astype(np.int64) * num_classes + classes, return_counts=True)
    # The last entry of a number wins: the largest count, and of equal ones the lowest class.
    order = np.lexsort((-pairs, counts))
    majorities = dict(divmod(pair, num_classes) for pair in pairs[order].tolist())
    return dict(sorted(majorities.items()))


def number_within_classes(
    class_of_object: Mapping[int, int], spec: catalog.DatasetSpec
) -> dict[int, int]:
    """Returns number -> panoptic label; objects are numbered from 1 within each class."""
    labels: dict[int, int] = {}
    counts: dict[int, int] = {}
    for number, semantic in class_of_object.items():
        counts[semantic] = counts.get(semantic, 0) + 1
        labels[number] = semantic * spec.label_divisor + counts[semantic]
    return labels
