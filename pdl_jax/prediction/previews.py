"""A reduced picture of an image and its labels, put together from tiles."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.windows import Window
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.result import PanopticResult, Segment
from pdl_jax.prediction.tiles import Tile

_MAX_SIDE_PX = 2048
# Labels that `DatasetSpec` allows.
_MAX_LABELS = 2**24


class Preview:
    """An image of at most 2048 pixels a side, reduced by a whole factor.

    Args:
      size: (height, width) of the image in pixels.
      num_channels: number of channels of the image.

    Attributes:
      factor: pixels of the image per pixel of the preview.
    """

    def __init__(self, size: tuple[int, int], num_channels: int) -> None:
        self.factor = max(1, ceil_div(max(size), _MAX_SIDE_PX))
        height, width = (ceil_div(n, self.factor) for n in size)
        self._image = np.zeros((height, width, num_channels), np.uint8)
        self._labels = np.zeros((height, width), np.int32)

    def add(self, tile: Tile, image: np.ndarray, labels: np.ndarray) -> None:
        """Adds the core of a tile.

        Args:
          tile: the tile.
          image: u8[h, w, C], its window.
          labels: i32[h, w], of its window.
        """
        factor, core = self.factor, tile.core
        part = Window(*(ceil_div(n, factor) for n in core))
        if 0 in part.size:
            return
        first = part.y0 * factor - tile.window.y0, part.x0 * factor - tile.window.x0
        inside = labels[first[0] :: factor, first[1] :: factor]
        self._labels[part.slices] = inside[: part.size[0], : part.size[1]]
        if factor == 1:
            shown = image[first[0] :, first[1] :]
        else:
            shown = _reduce(image[first[0] :, first[1] :], part.size, factor)
        self._image[part.slices] = shown[: part.size[0], : part.size[1]]

    def finish(
        self,
        segments: Sequence[Segment],
        table: np.ndarray,
        spec: DatasetSpec,
        **fields: Any,
    ) -> PanopticResult:
        """Makes a result of it.

        Args:
          segments: those of the whole image, with their ids 1, 2, ... as labels.
          table: i32[N], the id of each label.
          spec: the classes.
          **fields: more of the result.

        Returns:
          A result of the size of the preview, with all segments and their measures in the image.
          Its labels have more instances than those of the spec where there are more objects.
        """
        numbers: dict[int, int] = {}
        instances = []
        for segment in segments:
            numbers[segment.class_id] = numbers.get(segment.class_id, 0) + segment.is_thing
            instances.append(numbers[segment.class_id] if segment.is_thing else 0)
        limit = _MAX_LABELS // spec.label_format.num_semantic_values
        divisor = min(limit, max(spec.label_divisor, max(instances, default=0) + 1))
        spec = dataclasses.replace(spec, label_divisor=divisor)
        # Beyond the limit objects share labels, of which a picture of 2048 pixels shows little.
        labels = [
            s.class_id * divisor + (1 + (n - 1) % (divisor - 1) if n else 0)
            for s, n in zip(segments, instances, strict=True)
        ]
        label_of_id = np.array([spec.label_format.void_label, *labels], np.int32)
        shown = tuple(
            dataclasses.replace(s, label=label) for s, label in zip(segments, labels, strict=True)
        )
        panoptic = label_of_id[table[self._labels]]
        return PanopticResult(panoptic, shown, spec, image=self._image, **fields)


def _reduce(image: np.ndarray, size: tuple[int, int], factor: int) -> np.ndarray:
    """Averages u8[H, W, C] over squares of `factor` pixels, to u8[h, w, C] of a size."""
    height, width = (n * factor for n in size)
    image = image[:height, :width]
    missing = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    image = np.pad(image, missing, mode='edge')
    blocks = image.reshape(size[0], factor, size[1], factor, image.shape[2])
    return blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)
