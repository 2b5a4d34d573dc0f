"""Whether two programs of a case computed the same."""

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.inputs import LABEL_DIVISOR

Arrays = Mapping[str, np.ndarray]


def compare(kind: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Compares results.

    Args:
      kind: one of `LIMITS`.
      ours, theirs: what `Program.get_outputs` returned.

    Returns:
      Measures of the difference by name; the first is the one that `LIMITS` limits.
    """
    return _COMPARISONS[kind](ours, theirs)


def is_same(kind: str, measures: Mapping[str, float]) -> bool:
    """Whether the programs computed the same apart from rounding in float32."""
    name, limit = LIMITS[kind]
    return measures[name] <= limit


def _compare_panoptic(ours, theirs):
    """How many pixels differ where instances may be numbered in another order."""
    a, b = (outputs['panoptic'].astype(np.int64).reshape(-1) for outputs in (ours, theirs))
    pairs, counts = np.unique(np.stack([a, b]), axis=1, return_counts=True)
    # A label of ours stands for one of theirs of its class: the largest overlaps choose first.
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
    """The share of such pixels: where two classes meet, logits that have been enlarged are nearly equal."""
    measures = _compare_panoptic(ours, theirs)
    return {'different_share': measures['different_pixels'] / ours['panoptic'].size, **measures}


def _compare_maps(ours, theirs):
    """The largest and the mean difference of any map, in standard deviations of the map."""
    largest, mean = [], []
    for key, values in theirs.items():
        values = values.astype(np.float64)
        # Of a single number there is no deviation.
        scale = values.std() if values.size > 1 else np.abs(values).max()
        difference = np.abs(ours[key] - values) / max(scale, 1e-12)
        largest.append(difference.max())
        mean.append(difference.mean())
    # NumPy's, for which NaN is the largest.
    return {'largest_difference': float(np.max(largest)), 'mean_difference': float(np.max(mean))}


def _compare_loss(ours, theirs):
    """The relative difference of the loss at the first step."""
    a, b = float(ours['loss']), float(theirs['loss'])
    return {'relative_difference': abs(a - b) / abs(b), 'loss': a}


def _compare_quality(ours, theirs):
    """The largest difference of a panoptic quality in [0, 1]."""
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
# The measure that decides, and up to which value two programs in float32 agree.
LIMITS = {
    'panoptic': ('different_pixels', 0),
    'panoptic_of_network': ('different_share', 1e-4),
    'maps': ('largest_difference', 2e-3),
    'loss': ('relative_difference', 1e-4),
    'quality': ('quality_difference', 1e-9),
}
