"""Calibration of the scores of predicted things: score against the share that is right."""

from typing import Any

import numpy as np

from pdl_jax.evaluation.analysis.causes import INEXACT, JudgedSegments

_NUM_BINS = 10
_MAX_OUTSIDE = 0.1


def calibrate(segments: JudgedSegments, *, is_thing: np.ndarray) -> dict[str, Any] | None:
    """Compares the scores of predicted things with the share of them that is matched.

    Predictions that void or a crowd excuses are neither right nor wrong and left out. The heat of a
    centre is a regression, so that some scores may be a little above 1: they count as 1.

    Args:
      segments: those of all images.
      is_thing: bool[C], true for classes with instances.

    Returns:
      'ece', the expected calibration error: the mean over the predictions of the difference between
      the mean score and the precision of their bin; 'mean_score' and 'precision' of all; and
      'bins', a list of {'low', 'high', 'count', 'score' and 'precision' or None}. None if no thing
      has a score, or scores
      are no probabilities: one in ten or more is outside of [0, 1].

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    chosen = is_thing[segments.predicted_class] & np.isfinite(segments.score)
    score = segments.score[chosen]
    is_right = segments.predicted_cause[chosen] == INEXACT
    if not len(score) or np.mean((score < 0) | (score > 1)) >= _MAX_OUTSIDE:
        return None
    score = np.clip(score, 0, 1)
    index = np.minimum((score * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    count = np.bincount(index, minlength=_NUM_BINS)
    mean_score = np.bincount(index, score, _NUM_BINS) / np.maximum(count, 1)
    precision = np.bincount(index, is_right, _NUM_BINS) / np.maximum(count, 1)
    bins = [
        {
            'low': i / _NUM_BINS,
            'high': (i + 1) / _NUM_BINS,
            'count': int(count[i]),
            'score': float(mean_score[i]) if count[i] else None,
            'precision': float(precision[i]) if count[i] else None,
        }
        for i in range(_NUM_BINS)
    ]
    return {
        'ece': float(np.sum(count * np.abs(mean_score - precision)) / len(score)),
        'mean_score': float(score.mean()),
        'precision': float(is_right.mean()),
        'bins': bins,
    }
