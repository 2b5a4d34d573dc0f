"""Comparison of the results of two programs of a case."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.inputs import LABEL_DIVISOR

Arrays = Mapping[str, np.ndarray]


def compare(kind: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Measures the difference of two results.

    Args:
      kind: one of `LIMITS`.
      ours, theirs: results of `Program.get_outputs`.

    Returns:
      Measures of the difference by name; `LIMITS` bounds the first.
    """
    return _COMPARISONS[kind](ours, theirs)


def is_same(kind: str, measures: Mapping[str, float]) -> bool:
    """Returns true if the results agree up to float32 rounding."""
    name, limit = LIMITS[kind]
    return measures[name] <= limit


def _compare_panoptic(ours, theirs):
    """Counts the pixels that differ, up to the numbering of instances."""
    a, b = (outputs['panoptic'].astype(np.int64).reshape(-1) for outputs in (ours, theirs))
    pairs, counts = np.unique(np.stack([a, b]), axis=1, return_counts=True)
    # Match our labels to theirs of the same class one to one, the largest overlaps first.
    partners, taken, num_equal = {}, set(), 0
    for i in np.argsort(-counts, kind='stable'):
        label, other = pairs[:, i].tolist()
        if (
            label // LABEL_DIVISOR == other // LABEL_DIVISOR
            and label not in partners
            and other not in taken
        ):
            partners[label] = other
            taken.add(other)
            num_equal += int(counts[i])
    return {'different_pixels': a.size - num_equal, 'num_labels': int(len(np.unique(a)))}


def _compare_panoptic_of_network(ours, theirs):
    """Computes the share of such pixels: upsampled logits nearly tie where two classes meet."""
    measures = _compare_panoptic(ours, theirs)
    return {'different_share': measures['different_pixels'] / ours['panoptic'].size, **measures}


def _compare_maps(ours, theirs):
    """Finds the largest and the mean difference of any map, in standard deviations of the map."""
    largest, mean = [], []
    for key, values in theirs.items():
        values = values.astype(np.float64)
        # A single number has no deviation.
        scale = values.std() if values.size > 1 else np.abs(values).max()
        difference = np.abs(ours[key] - values) / max(scale, 1e-12)
        largest.append(difference.max())
        mean.append(difference.mean())
    # np.max propagates NaN; the built-in max does not.
    return {'largest_difference': float(np.max(largest)), 'mean_difference': float(np.max(mean))}


def _compare_loss(ours, theirs):
    """Computes the relative difference of the loss at the first step."""
    a, b = float(ours['loss']), float(theirs['loss'])
    return {'relative_difference': abs(a - b) / abs(b), 'loss': a}


def _compare_quality(ours, theirs):
    """Finds the largest difference of a panoptic quality in [0, 1]."""
    return {
        'quality_difference': float(np.abs(ours['quality'] - theirs['quality']).max()),
        'quality': float(ours['quality'][0]),
    }


_COMPARISONS: dict[str, Callable[[Arrays, Arrays], dict[str, float]]] = {
    'panoptic': _compare_panoptic,
    'panoptic_of_network': _compare_panoptic_of_network,
    'maps': _compare_maps,
    'loss': _compare_loss,
    'quality': _compare_quality,
}
# (measure, limit) up to which two float32 programs agree, by kind.
LIMITS = {
    'panoptic': ('different_pixels', 0),
    'panoptic_of_network': ('different_share', 1e-4),
    'maps': ('largest_difference', 2e-3),
    'loss': ('relative_difference', 1e-4),
    'quality': ('quality_difference', 1e-9),
}
