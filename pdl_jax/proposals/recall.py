"""Recall of labelled objects by the number of proposals."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.proposals.candidates import Candidates
from pdl_jax.proposals.kitti_label import ObjectLabel, stack_boxes
from pdl_jax.proposals.overlap import image_iou, space_iou
from pdl_jax.typing import Array

# IoUs above which an object is found: in the image those of KITTI's detection (cars 0.7, others
# 0.5), in space the looser ones of 3DOP's recall.
IMAGE_THRESHOLDS = (0.5, 0.7)
SPACE_THRESHOLDS = (0.25, 0.5)
# Frames with more objects count the first ones.
_MAX_OBJECTS = 128


class Difficulty(NamedTuple):
    """Limits of KITTI on the objects that count.

    Attributes:
      min_height_px: smallest height of the box in the image.
      max_occlusion: highest level of occlusion.
      max_truncation: largest share outside of the image.
    """

    min_height_px: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES: Mapping[str, Difficulty] = {
    'easy': Difficulty(40, 0, 0.15),
    'moderate': Difficulty(25, 1, 0.3),
    'hard': Difficulty(25, 2, 0.5),
}


def select_objects(labels: Sequence[ObjectLabel], kind: str, difficulty: str) -> list[ObjectLabel]:
    """Selects the objects of a class that count at a difficulty, a key of `DIFFICULTIES`."""
    limits = DIFFICULTIES[difficulty]
    return [
        label
        for label in labels
        if label.kind == kind
        and label.image_box[2] - label.image_box[0] >= limits.min_height_px
        and 0 <= label.occlusion <= limits.max_occlusion
        and 0 <= label.truncation <= limits.max_truncation
    ]


class RecallCounter:
    """Collects the best overlaps of objects with the first proposals, over frames.

    Args:
      max_proposals: number of proposals per frame and class.
    """

    def __init__(self, max_proposals: int) -> None:
        steps = [n for e in range(5) for n in (10**e, 2 * 10**e, 5 * 10**e) if n < max_proposals]
        self.counts = (*steps, max_proposals)
        self._overlaps: dict[str, list[np.ndarray]] = {}

    def add(self, kind: str, proposals: Candidates, objects: Sequence[ObjectLabel]) -> None:
        """Adds the objects of a class in a frame."""
        objects = objects[:_MAX_OBJECTS]
        overlaps = self._overlaps.setdefault(kind, [])
        if not objects:
            return
        widths = [(0, _MAX_OBJECTS - len(objects)), (0, 0)]
        image_boxes = np.array([label.image_box for label in objects], np.float32)
        best = find_best_overlaps(
            proposals,
            jnp.asarray(np.pad(stack_boxes(list(objects)), widths)),
            jnp.asarray(np.pad(image_boxes, widths)),
            counts=self.counts,
        )
        overlaps.append(np.asarray(best)[:, :, : len(objects)])

    def summarize(self) -> dict[str, Any]:
        """Returns the recalls as JSON values, by class, kind of IoU and threshold."""
        report: dict[str, Any] = {'num_proposals': list(self.counts), 'classes': {}}
        for kind, parts in self._overlaps.items():
            empty = np.zeros((2, len(self.counts), 0))
            space, image = np.concatenate([empty, *parts], axis=2)
            row: dict[str, Any] = {'num_objects': space.shape[1]}
            for name, overlaps, thresholds in (
                ('space', space, SPACE_THRESHOLDS),
                ('image', image, IMAGE_THRESHOLDS),
            ):
                row[name] = {
                    f'{threshold:g}': _share(overlaps >= threshold) for threshold in thresholds
                }
            report['classes'][kind] = row
        return report


@functools.partial(jax.jit, static_argnames=('counts',))
def find_best_overlaps(
    proposals: Candidates, boxes: Array, image_boxes: Array, *, counts: tuple[int, ...]
) -> Array:
    """Finds the best overlap of each object with the first proposals.

    Args:
      proposals: the best first.
      boxes: f32[G, 7], see `overlap`.
      image_boxes: f32[G, 4], (y0, x0, y1, x1) in pixels.
      counts: numbers of proposals, each at least 1.

    Returns:
      f32[2, len(counts), G], IoU in space and in the image.
    """
    rows = jnp.array([min(count, len(proposals.scores)) - 1 for count in counts])

    def measure(one: tuple[Array, Array]) -> tuple[Array, Array]:
        return (
            space_iou(proposals.boxes, one[0]),
            image_iou(proposals.image_boxes, one[1]),
        )

    # One object at a time: clipped polygons of all pairs would take gigabytes.
    overlaps = jnp.stack(lax.map(measure, (boxes, image_boxes)))
    overlaps = lax.cummax(jnp.where(proposals.valid, overlaps, 0), axis=2)
    return overlaps[:, :, rows].swapaxes(1, 2)


def format_recall(report: Mapping[str, Any]) -> str:
    """Formats recalls in percent as a table, a line per class and threshold."""
    counts = report['num_proposals']
    lines = ['recall %              IoU ' + ''.join(f'{count:>7}' for count in counts)]
    for kind, row in report['classes'].items():
        for name, title in (('space', '3-D'), ('image', '2-D')):
            for threshold, values in row[name].items():
                cells = ''.join(
                    '      –' if value is None else f'{100 * value:7.1f}' for value in values
                )
                lines.append(f'{kind[:16]:16} {title} {threshold:>4} {cells}')
        lines.append(f'{kind[:16]:16} {row["num_objects"]} objects')
    return '\n'.join(lines)


def _share(found: np.ndarray) -> list[float | None]:
    """Returns the share of objects found by number of proposals, of bool[N, G]; None of none."""
    return [float(row.mean()) if row.size else None for row in found]
