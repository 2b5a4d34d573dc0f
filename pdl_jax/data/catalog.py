"""Descriptions of data sets: categories, semantic classes and the panoptic label format."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pdl_jax import typing
from pdl_jax.data.categories import MAX_CATEGORIES, Category, parse_categories, read_table
from pdl_jax.data.dataset_formats import SPEC_NAMES
from pdl_jax.data.json_fields import get_field, get_integer, has_value, refuse_repeated, to_integer
from pdl_jax.data.named_categories import (
    CITYSCAPES_STUFF,
    CITYSCAPES_THINGS,
    COCO_STUFF,
    COCO_THINGS,
)
from pdl_jax.data.notices import Notices
from pdl_jax.data.palette import choose_colors, match_colors

# Choices of the colours of classes, see `DatasetSpec.make_palette`.
PALETTES = ('given', 'colorblind')
_LAST_THING_ID = 90


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Classes and label format of a data set; immutable and hashable.

    Category number i of `categories` is semantic class first_class + i.

    Attributes:
      name: name of the data set, e.g. 'coco'.
      categories: the categories in the order of the semantic classes.
      first_class: 1 where class 0 is a separate logit for void (COCO in DeepLab2), else 0.
      ignore_label: semantic value of void pixels.
      label_divisor: exclusive upper bound of instance ids.
    """

    name: str
    categories: tuple[Category, ...]
    first_class: int
    ignore_label: int
    label_divisor: int

    def __post_init__(self) -> None:
        if not self.categories:
            raise ValueError(f'DatasetSpec {self.name!r} has no categories: give at least one')
        if self.first_class not in (0, 1):
            raise ValueError(f'first_class (={self.first_class}) of {self.name!r} must be 0 or 1')
        if self.first_class <= self.ignore_label < self.first_class + len(self.categories):
            taken_by = self.categories[self.ignore_label - self.first_class].name
            raise ValueError(
                f'ignore_label (={self.ignore_label}) of {self.name!r} is the class of category '
                f'{taken_by!r}: choose a value outside the {len(self.categories)} classes'
            )
        refuse_repeated([c.id for c in self.categories], f'categories[].id of {self.name!r}')
        if self.label_format.num_labels > 2**24:
            raise ValueError(
                f'{self.label_format.num_semantic_values} semantic values times label_divisor '
                f'(={self.label_divisor}) of {self.name!r} exceed 2**24, which a 24-bit PNG holds: '
                f'choose a smaller label_divisor'
            )

    @property
    def num_classes(self) -> int:
        """Number of logits, including a void class."""
        return self.first_class + len(self.categories)

    @functools.cached_property
    def label_format(self) -> typing.LabelFormat:
        """Encoding of class and instance in one int32 per pixel."""
        things = tuple(self.first_class + i for i, c in enumerate(self.categories) if c.is_thing)
        return typing.LabelFormat(
            num_classes=self.num_classes,
            thing_classes=things,
            ignore_label=self.ignore_label,
            label_divisor=self.label_divisor,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by semantic class; class 0 is 'void' where first_class is 1."""
        return ('void',) * self.first_class + tuple(c.name for c in self.categories)

    @functools.cached_property
    def category_of_class(self) -> dict[int, Category]:
        """Semantic class -> category, without a void class."""
        return {self.first_class + i: c for i, c in enumerate(self.categories)}

    @functools.cached_property
    def class_of_category(self) -> dict[int, int]:
        """Category id of the annotation file -> semantic class."""
        return {c.id: self.first_class + i for i, c in enumerate(self.categories)}

    def make_palette(self, palette: str = 'given') -> np.ndarray:
        """Makes the colours of pictures.

        Args:
          palette: 'given' takes the colours of the categories; 'colorblind' others that resemble
            them and can be told apart by people with deuteranopia or protanopia too.

        Returns:
          u8[num_semantic_values, 3], a colour per semantic value; void is black.

        Raises:
          ValueError: there is no such palette.
        """
        if palette not in PALETTES:
            raise ValueError(f'palette (={palette!r}) must be one of {", ".join(PALETTES)}')
        colors = [category.color for category in self.categories]
        if palette == 'colorblind':
            colors = match_colors(choose_colors(len(colors)), colors)
        table = np.zeros((self.label_format.num_semantic_values, 3), np.uint8)
        table[self.first_class : self.first_class + len(colors)] = colors
        return table

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON types, with categories as in an annotation file."""
        return {
            'name': self.name,
            'first_class': self.first_class,
            'ignore_label': self.ignore_label,
            'label_divisor': self.label_divisor,
            'categories': [
                {'id': c.id, 'name': c.name, 'isthing': int(c.is_thing), 'color': list(c.color)}
                for c in self.categories
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'DatasetSpec':
        """Makes a spec from the result of `to_dict`.

        Raises:
          ValueError: a field is missing or has a wrong type.
        """
        where = 'a dataset spec'
        name = get_field(values, 'name', str, where)
        fields = {
            key: get_integer(values, key, where, low=low, high=high)
            for key, low, high in (
                ('first_class', 0, 1),
                ('ignore_label', 0, 2**24),
                ('label_divisor', 2, 2**24),
            )
        }
        categories = get_field(values, 'categories', list, where)
        categories = parse_categories(categories, source=f'spec {name[:80]!r}')
        return cls(name=name, categories=categories, **fields)


def coco() -> DatasetSpec:
    """Returns COCO panoptic as in DeepLab2: classes 1..133 by id, 0 is void, divisor 256."""
    things = read_table(COCO_THINGS, is_thing=True)
    stuff = read_table(COCO_STUFF, is_thing=False)
    return DatasetSpec('coco', things + stuff, first_class=1, ignore_label=0, label_divisor=256)


def coco_ids() -> DatasetSpec:
    """Returns COCO panoptic as in Model Garden: classes are category ids 1..200, 0 is void.

    Ids without a category are classes that no pixel has; those up to 90 are things.
    """
    known = {category.id: category for category in coco().categories}
    categories = tuple(
        known.get(i) or Category(i, f'unused id {i}', i <= _LAST_THING_ID, (0, 0, 0))
        for i in range(1, max(known) + 1)
    )
    return DatasetSpec('coco_ids', categories, first_class=1, ignore_label=0, label_divisor=256)


def cityscapes(*, is_train_id: bool = False) -> DatasetSpec:
    """Returns Cityscapes: the 19 train ids are the classes, void is 255, divisor 1000.

    Args:
      is_train_id: whether the annotation file names categories by train id (made with
        csCreatePanopticImgs --use-train-id) instead of the official ids 7..33.
    """
    stuff = read_table(CITYSCAPES_STUFF, is_thing=False)
    things = read_table(CITYSCAPES_THINGS, is_thing=True)
    categories = stuff + things
    if is_train_id:
        categories = tuple(dataclasses.replace(c, id=i) for i, c in enumerate(categories))
    return DatasetSpec(
        'cityscapes', categories, first_class=0, ignore_label=255, label_divisor=1000
    )


def from_categories(
    name: str,
    json_categories: Sequence[Mapping[str, Any]],
    *,
    source: str = '',
    notices: Notices | None = None,
    guess_things: Callable[[], set[int]] | None = None,
) -> DatasetSpec:
    """Makes the spec of any data set in the COCO panoptic format.

    Args:
      name: name of the data set.
      json_categories: the list 'categories' of the annotation file.
      source: name of the file, for error messages.
      notices, guess_things: see `categories.parse_categories`.

    Returns:
      Classes 0..N-1 in the order of the list, void max(255, N), divisor 1000.

    Raises:
      ValueError: a category is malformed, or an id is given twice.
    """
    categories = parse_categories(
        json_categories, source=source or name, notices=notices, guess_things=guess_things
    )
    return DatasetSpec(
        name, categories, first_class=0, ignore_label=max(255, len(categories)), label_divisor=1000
    )


def make_room(spec: DatasetSpec, num_instances: int) -> DatasetSpec:
    """Returns the spec with a label divisor that exceeds a number of instances.

    A larger divisor than needed is chosen, so that splits of one data set mostly get the same.

    Args:
      spec: the spec; it is returned unchanged if its divisor is large enough.
      num_instances: the largest number of objects of one class in an image.

    Raises:
      ValueError: 24 bits, which the PNGs of prepared labels have, do not hold so many.
    """
    if num_instances < spec.label_divisor:
        return spec
    largest = 2**24 // spec.label_format.num_semantic_values
    if num_instances >= largest:
        raise ValueError(
            f'an image has {num_instances} objects of one class, and with '
            f'{spec.label_format.num_semantic_values} semantic values a 24-bit label holds '
            f'{largest - 1}: cut the image into tiles'
        )
    divisor = min(largest, 2 ** (num_instances.bit_length() + 1))
    return dataclasses.replace(spec, label_divisor=divisor)


def check_num_instances(counts: Mapping[int, int], spec: DatasetSpec, name: str) -> None:
    """Checks that the label format holds the objects of an image.

    Args:
      counts: semantic class -> number of objects.
      spec: classes and label format.
      name: name of the image or its annotation, for error messages.

    Raises:
      ValueError: a class has too many objects.
    """
    for semantic, count in counts.items():
        if count >= spec.label_divisor:
            raise ValueError(
                f'label_divisor (={spec.label_divisor}) must exceed the {count} objects of '
                f'{spec.class_names[semantic]!r} in {name}: cut the image into tiles'
            )


def get_spec(
    name: str,
    json_categories: Sequence[Mapping[str, Any]] | None = None,
    *,
    source: str = 'the annotation file',
    notices: Notices | None = None,
    guess_things: Callable[[], set[int]] | None = None,
) -> DatasetSpec:
    """Chooses the spec for an annotation file.

    Args:
      name: 'coco', 'coco_ids' or 'cityscapes' (the file may list a subset of their categories),
        'own' (the categories of the file) or 'auto' (COCO or Cityscapes where the file lists
        exactly their categories, else 'own').
      json_categories: the list 'categories' of the file; None is allowed for those named first.
      source: name of the file, for error messages.
      notices, guess_things: see `categories.parse_categories`.

    Raises:
      ValueError: the name is unknown, a category is malformed, or the file has categories that the
        named spec lacks.
    """
    if name not in SPEC_NAMES:
        raise ValueError(f'spec {name!r} is unknown: choose one of {", ".join(SPEC_NAMES)}')
    named = {
        'coco': (coco(),),
        'coco_ids': (coco_ids(),),
        'cityscapes': (cityscapes(), cityscapes(is_train_id=True)),
    }
    if json_categories is None:
        if name not in named:
            raise ValueError(f'spec {name!r} needs the categories of an annotation file')
        return named[name][0]

    notices = Notices() if notices is None else notices
    # A file cannot show that its ids are meant to be the classes.
    keys = ('coco', 'cityscapes') if name == 'auto' else (name,)
    candidates = [spec for key in keys for spec in named.get(key, ())]
    listed = _add_known_things(json_categories, candidates, name, source, notices)
    own = from_categories('own', listed, source=source, notices=notices, guess_things=guess_things)
    if name == 'own':
        return own
    for spec in candidates:
        if _identify(spec.categories) == _identify(own.categories):
            return spec
    if name == 'auto':
        _tell_of_other_things(own, candidates, source, notices)
        return own
    strange = [_identify(own.categories) - _identify(spec.categories) for spec in candidates]
    if not all(strange):
        return candidates[strange.index(set())]
    raise ValueError(
        f'categories of {source} are not among those of {name!r}: (id, name, isthing) '
        f'{sorted(min(strange, key=len))[:3]}; choose --spec=own to train on the categories of the '
        f'file'
    )


def _add_known_things(
    json_categories: Sequence[Mapping[str, Any]],
    candidates: Sequence[DatasetSpec],
    name: str,
    source: str,
    notices: Notices,
) -> Sequence[Mapping[str, Any]]:
    """Returns the list with the field isthing of a named data set, if it has these categories."""
    is_list = isinstance(json_categories, list) and 0 < len(json_categories) <= MAX_CATEGORIES
    if not is_list or not all(isinstance(c, Mapping) for c in json_categories):
        return json_categories
    if any(has_value(c, 'isthing', source) for c in json_categories):
        return json_categories
    listed = {(to_integer(c.get('id')), str(c.get('name'))) for c in json_categories}
    for spec in candidates:
        known = {(c.id, c.name) for c in spec.categories}
        if listed == known or (name != 'auto' and listed <= known):
            text = f'categories lack isthing: taken from {spec.name}, which has these categories'
            notices.add(text, source, len(json_categories))
            is_thing = {c.id: int(c.is_thing) for c in spec.categories}
            return [{**c, 'isthing': is_thing[to_integer(c['id']) or 0]} for c in json_categories]
    return json_categories


def _tell_of_other_things(
    own: DatasetSpec, candidates: Sequence[DatasetSpec], source: str, notices: Notices
) -> None:
    listed = {(c.id, c.name) for c in own.categories}
    for spec in candidates:
        known = {(c.id, c.name): c.is_thing for c in spec.categories}
        if listed == set(known):
            differing = [c.name for c in own.categories if c.is_thing != known[c.id, c.name]]
            text = (
                f'categories have another isthing than in {spec.name}, so that the split is not '
                f'taken for it; repair the JSON to get its classes and rules'
            )
            notices.add(text, f'{differing[0]!r} in {source}', len(differing))


def _identify(categories: Sequence[Category]) -> set[tuple[int, str, bool]]:
    return {(c.id, c.name, c.is_thing) for c in categories}
