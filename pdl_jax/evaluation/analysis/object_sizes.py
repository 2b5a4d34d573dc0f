"""Panoptic quality by the size of objects; NumPy only."""

from typing import Any

import numpy as np

from pdl_jax.evaluation.analysis.causes import INEXACT, JudgedSegments

# Bounds of COCO's small, medium and large objects, in pixels of the image.
_COCO_EDGES_PX = (32**2, 96**2)
_COCO_NAMES = ('small', 'medium', 'large')
_NUM_QUANTILES = 4


def score_sizes(segments: JudgedSegments, *, is_thing: np.ndarray) -> dict[str, Any]:
    """Scores the things of each size.

    A match and a missed label belong to the size of the label, a false prediction to its own.

    Args:
      segments: those of all images.
      is_thing: bool[C], true for classes with instances.

    Returns:
      'coco', by COCO's bounds, and 'quantiles', by the quartiles of the labels' areas: a list of
      {'name', 'min_px' inclusive, 'max_px' exclusive or None, 'pq', 'sq', 'rq' as means over the
      classes with a segment of the size or None, 'tp', 'fp', 'fn'}.
    """
    things = segments.label_area[is_thing[segments.label_class]]
    shares = np.arange(1, _NUM_QUANTILES) / _NUM_QUANTILES
    # Whole pixels, and bounds that coincide are one.
    quartiles = np.unique(np.ceil(np.quantile(things, shares))) if len(things) else []
    names = [f'part {i + 1} of {len(quartiles) + 1}' for i in range(len(quartiles) + 1)]
    return {
        'coco': _score_bins(segments, is_thing, _COCO_EDGES_PX, _COCO_NAMES),
        'quantiles': _score_bins(segments, is_thing, quartiles, names) if len(things) else [],
    }


def _score_bins(segments: JudgedSegments, is_thing: np.ndarray, edges: Any, names: Any) -> list:
    label_bin = np.searchsorted(edges, segments.label_area, side='right')
    own_bin = np.searchsorted(edges, segments.area, side='right')
    matched = segments.label_cause == INEXACT
    false = segments.predicted_cause != INEXACT
    bounds = [0, *(int(edge) for edge in edges), None]
    rows = []
    for i, name in enumerate(names):

        def count(classes: np.ndarray, chosen: np.ndarray, weights: Any = None) -> np.ndarray:
            weights = None if weights is None else weights[chosen]
            return np.bincount(classes[chosen], weights, len(is_thing))[is_thing]

        inside = label_bin == i
        tp = count(segments.label_class, inside & matched)
        fn = count(segments.label_class, inside & ~matched)
        fp = count(segments.predicted_class, (own_bin == i) & false)
        iou_sum = count(segments.label_class, inside & matched, segments.iou)
        size = tp + 0.5 * fp + 0.5 * fn
        valid = size > 0
        quality = {
            'pq': iou_sum / np.where(valid, size, 1),
            'sq': iou_sum / np.maximum(tp, 1),
            'rq': tp / np.where(valid, size, 1),
        }
        means = {k: float(v[valid].mean()) if valid.any() else None for k, v in quality.items()}
        counts = {'tp': int(tp.sum()), 'fp': int(fp.sum()), 'fn': int(fn.sum())}
        rows.append({'name': name, 'min_px': bounds[i], 'max_px': bounds[i + 1], **means, **counts})
    return rows
