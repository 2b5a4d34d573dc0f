"""Statistics of a split's labels: what `prepare` and `check` print, and what is wrong with them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pdl_jax.data import catalog
from pdl_jax.data.json_fields import get_field, get_integer
from pdl_jax.storage.json_files import describe_value

# Objects per image whose nearest neighbour is searched; the others are of the same kind.
_MAX_QUERIES = 256
# Parts of a whole above which void pixels are worth a word.
_LARGE_VOID_SHARE = 0.5
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Above the pixels of any data set.
_MAX_COUNT = 2**62
# Names shown in one line of a warning.
_MAX_NAMES = 8


class ImageStatistics(NamedTuple):
    """Counts over one label.

    Attributes:
      size: (height, width) in pixels.
      num_segments: number of segments, crowds included, void excluded.
      pixels: i64[S], pixels by semantic value, void included.
      object_classes: i32[N], semantic class of each object.
      object_areas: i64[N], pixels of each object.
      neighbor_distances: f32[M], distance in pixels from the centre of mass of an object to the
        nearest one of another; for at most 256 objects.
    """

    size: tuple[int, int]
    num_segments: int
    pixels: np.ndarray
    object_classes: np.ndarray
    object_areas: np.ndarray
    neighbor_distances: np.ndarray


def count_labels(panoptic: np.ndarray, spec: catalog.DatasetSpec) -> ImageStatistics:
    """Counts the pixels of every class and object of one label.

    Args:
      panoptic: i32[H, W].
      spec: classes and label format.
    """
    height, width = panoptic.shape
    # Labels are small, so counting all of them is faster than sorting the pixels.
    areas = np.bincount(panoptic.ravel())
    labels = np.flatnonzero(areas)
    semantic, instance = np.divmod(labels, spec.label_divisor)
    pixels = np.bincount(
        semantic, weights=areas[labels], minlength=spec.label_format.num_semantic_values
    ).astype(np.int64)
    objects = labels[instance > 0]
    return ImageStatistics(
        size=(height, width),
        num_segments=int((labels != spec.label_format.void_label).sum()),
        pixels=pixels,
        object_classes=semantic[instance > 0].astype(np.int32),
        object_areas=areas[objects],
        neighbor_distances=_find_neighbor_distances(panoptic, objects, areas),
    )


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
    """Counts over the labels of a split; JSON types, stored with the records.

    Attributes:
      num_images: number of images.
      num_images_without_objects: images without a thing instance.
      heights_px, widths_px: smallest, median and largest size of an image.
      pixels: pixels by semantic class, then of void; `num_classes + 1` values.
      images: images in which each semantic class occurs.
      objects: thing instances of each semantic class.
      diameters_px: 5, 25, 50, 75 and 95 % quantiles of the objects' diameters, those of circles of
        the same area, by semantic class; None where there is no object.
      neighbor_distances_px: the same quantiles of the distance to the nearest other object; None
        without two objects in an image.
    """

    num_images: int
    num_images_without_objects: int
    heights_px: tuple[float, ...]
    widths_px: tuple[float, ...]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    objects: tuple[int, ...]
    diameters_px: tuple[tuple[float, ...] | None, ...]
    neighbor_distances_px: tuple[float, ...] | None

    @property
    def void_share(self) -> float:
        """Part of all pixels that is void."""
        return self.pixels[-1] / max(1, sum(self.pixels))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, num_classes: int, where: str
    ) -> 'SplitStatistics':
        """Makes the statistics from the result of `to_dict`, read back from JSON.

        Args:
          values: the fields.
          num_classes: number of semantic classes.
          where: place of the fields, for error messages.

        Raises:
          ValueError: a field is missing or malformed; the message names it.
        """
        get_field(values, 'diameters_px', list, where)
        num_quantiles = len(_QUANTILES)
        diameters = {i: d for i, d in enumerate(values['diameters_px']) if d is not None}
        if len(values['diameters_px']) != num_classes:
            raise ValueError(
                f'{where}: diameters_px must have {num_classes} values, got '
                f'{len(values["diameters_px"])}'
            )
        for i in diameters:
            _check_numbers(diameters, i, num_quantiles, f'diameters_px of {where}')
        if get_field(values, 'neighbor_distances_px', (list, type(None)), where) is not None:
            _check_numbers(values, 'neighbor_distances_px', num_quantiles, where)
        for name, length in (
            ('heights_px', 3),
            ('widths_px', 3),
            ('pixels', num_classes + 1),
            ('images', num_classes),
            ('objects', num_classes),
        ):
            _check_numbers(values, name, length, where)
        for name in ('num_images', 'num_images_without_objects'):
            get_field(values, name, int, where)
            get_integer(values, name, where, low=0)
        return cls(**{f.name: _freeze(values[f.name]) for f in dataclasses.fields(cls)})


class StatisticsCollector:
    """Adds up the statistics of images, in any order."""

    def __init__(self, spec: catalog.DatasetSpec) -> None:
        self._spec = spec
        self._sizes: list[tuple[int, int]] = []
        self._pixels = np.zeros(spec.label_format.num_semantic_values, np.int64)
        self._images = np.zeros_like(self._pixels)
        self._num_without_objects = 0
        self._classes: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._distances: list[np.ndarray] = []

    def add(self, image: ImageStatistics) -> None:
        """Adds one image."""
        self._sizes.append(image.size)
        self._pixels += image.pixels
        self._images += image.pixels > 0
        self._num_without_objects += not len(image.object_classes)
        self._classes.append(image.object_classes)
        self._areas.append(image.object_areas)
        self._distances.append(image.neighbor_distances)

    def compute(self) -> SplitStatistics:
        """Returns the statistics of all images so far."""
        num_classes, void = self._spec.num_classes, self._spec.ignore_label
        # Void may be the value of a class without pixels of its own (COCO: class 0).
        pixels = [int(n) if c != void else 0 for c, n in enumerate(self._pixels[:num_classes])]
        images = [int(n) if c != void else 0 for c, n in enumerate(self._images[:num_classes])]
        classes = _join(self._classes, np.int32)
        diameters = 2 * np.sqrt(_join(self._areas, np.int64) / math.pi)
        by_class = [diameters[classes == c] for c in range(num_classes)]
        heights, widths = np.array(self._sizes or [(0, 0)]).T
        distances = _join(self._distances, np.float32)
        return SplitStatistics(
            num_images=len(self._sizes),
            num_images_without_objects=self._num_without_objects,
            heights_px=(float(heights.min()), float(np.median(heights)), float(heights.max())),
            widths_px=(float(widths.min()), float(np.median(widths)), float(widths.max())),
            pixels=(*pixels, int(self._pixels[void])),
            images=tuple(images),
            objects=tuple(len(values) for values in by_class),
            diameters_px=tuple(_find_quantiles(values) for values in by_class),
            neighbor_distances_px=_find_quantiles(distances),
        )


def find_warnings(statistics: SplitStatistics, spec: catalog.DatasetSpec) -> list[str]:
    """Lists what makes labels useless for training or a metric meaningless, one line each.

    Args:
      statistics: counts over the split.
      spec: classes and label format.
    """
    names = [spec.class_names[c] for c in spec.category_of_class]
    pixels = {spec.class_names[c]: statistics.pixels[c] for c in spec.category_of_class}
    present = [name for name in names if pixels[name]]
    absent = [name for name in names if not pixels[name]]
    void = f'{statistics.void_share:.0%} of the pixels are void'
    warnings = []
    if not present:
        warnings.append('every pixel is void: there is nothing to learn or to score')
    elif len(present) == 1:
        warnings.append(
            f'{present[0]!r} is the only class with pixels ({void}): the network will call every '
            f'pixel {present[0]!r}, and mIoU and pixel accuracy say nothing; give the rest a '
            f'class, as --background=background does'
        )
    elif statistics.void_share > _LARGE_VOID_SHARE:
        warnings.append(
            f'{void}: they are neither learned nor scored, so what the network says there is '
            f'unknown; if they are background, pass --background=background'
        )
    if present and absent:
        more = f' and {len(absent) - _MAX_NAMES} more' if len(absent) > _MAX_NAMES else ''
        shown = ', '.join(repr(name) for name in absent[:_MAX_NAMES]) + more
        hint = ''
        if statistics.void_share:
            hint = f'; {void}: is one of the values that mean void such a class (--void_id)?'
        warnings.append(
            f'{len(absent)} of {len(names)} classes have no pixel ({shown}): they cannot be '
            f'learned{hint}'
        )
    return warnings


def format_statistics(statistics: SplitStatistics, spec: catalog.DatasetSpec) -> str:
    """Formats the statistics as a table with a line per class."""
    labelled = max(1, sum(statistics.pixels[:-1]))
    heights, widths = statistics.heights_px, statistics.widths_px
    lines = [
        f'{statistics.num_images} images of {heights[0]:.0f}x{widths[0]:.0f} to '
        f'{heights[2]:.0f}x{widths[2]:.0f} px (height x width; median {heights[1]:.0f}x'
        f'{widths[1]:.0f}), {statistics.num_images_without_objects} without an object, '
        f'{statistics.void_share:.1%} void',
        f'{"class":24} | {"kind":>5} | {"pixels %":>8} | {"images":>7} | {"objects":>8} | '
        f'{"diameter px (5 % .. median .. 95 %)":>35}',
    ]
    for semantic, category in spec.category_of_class.items():
        quantiles = statistics.diameters_px[semantic]
        diameter = '-'
        if quantiles is not None:
            diameter = f'{quantiles[0]:.0f} .. {quantiles[2]:.0f} .. {quantiles[4]:.0f}'
        count = f'{statistics.objects[semantic]}' if category.is_thing else '-'
        lines.append(
            f'{category.name[:24]:24} | {"thing" if category.is_thing else "stuff":>5} | '
            f'{100 * statistics.pixels[semantic] / labelled:8.2f} | '
            f'{statistics.images[semantic]:7d} | {count:>8} | {diameter:>35}'
        )
    return '\n'.join(lines)


def _find_neighbor_distances(
    panoptic: np.ndarray, objects: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Returns f32[M], from objects to their nearest other one, by centres of mass.

    Args:
      panoptic: i32[H, W].
      objects: labels of objects.
      areas: pixels by label.
    """
    if len(objects) < 2:
        return np.zeros(0, np.float32)
    height, width = panoptic.shape
    places = np.repeat(np.arange(height), width), np.tile(np.arange(width), height)
    sums = [np.bincount(panoptic.ravel(), place) for place in places]
    centers = np.stack([total[objects] / areas[objects] for total in sums], axis=1)
    stride = -(-len(centers) // _MAX_QUERIES)
    queries = centers[::stride]
    distances = np.linalg.norm(queries[:, None] - centers[None], axis=-1)
    distances[np.arange(len(queries)), np.arange(len(queries)) * stride] = np.inf
    return distances.min(axis=1).astype(np.float32)


def _find_quantiles(values: np.ndarray) -> tuple[float, ...] | None:
    if not len(values):
        return None
    return tuple(round(float(q), 2) for q in np.quantile(values, _QUANTILES))


def _join(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _check_numbers(values: Mapping[Any, Any], key: Any, length: int, where: str) -> None:
    """Refuses what is no list of finite numbers >= 0 of some length."""
    numbers = get_field(values, key, list, where)
    if len(numbers) != length or not all(
        type(n) in (int, float) and 0 <= n < _MAX_COUNT for n in numbers
    ):
        raise ValueError(
            f'{where}: {key} must be {length} numbers >= 0, got {describe_value(numbers)}'
        )


def _freeze(value: Any) -> Any:
    """Turns JSON lists back into tuples."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value
