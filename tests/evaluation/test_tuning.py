"""The search of thresholds: candidates, and counts of segments under every filter."""

import dataclasses
import itertools

import numpy as np
import pytest

from pdl_jax.evaluation.segment_histogram import SegmentHistogram
from pdl_jax.evaluation.tuning import list_candidates
from pdl_jax.postprocess.panoptic import PostprocessOptions
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLabOptions
from pdl_jax.systems.semantic_deeplab import SemanticDeepLabOptions
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(4, thing_classes=(1, 3), ignore_label=255, label_divisor=256)


def test_candidates_hold_the_present_value():
    options = PanopticDeepLabOptions(
        (33, 33), postprocess=PostprocessOptions(nms_kernel_px=9, min_score=0.33)
    )
    candidates = list_candidates(options)
    assert candidates['nms_kernel_px'] == (3, 7, 9, 13, 21, 33)
    assert 0.33 in candidates['min_score'] and 'max_centers' not in candidates
    for values in candidates.values():
        assert list(values) == sorted(set(values))
    assert list(list_candidates(options, ['min_score'])) == ['min_score']
    with pytest.raises(ValueError, match="--tune=min_scor: .* did you mean 'min_score'"):
        list_candidates(options, ['min_scor'])
    with pytest.raises(ValueError, match='a semantic_deeplab network has no options to search'):
        list_candidates(SemanticDeepLabOptions((33, 33)))


def test_systems_without_centers_refuse_thresholds():
    options = SemanticDeepLabOptions((33, 33))
    assert options.with_inference({}) is options and options.inference_values == {}
    with pytest.raises(ValueError, match='center_threshold is no option of a semantic_deeplab'):
        options.with_inference({'center_threshold': 0.3})


def test_options_change_for_inference():
    options = PanopticDeepLabOptions((33, 33))
    changed = options.with_inference({'min_score': np.float32(0.5), 'max_centers': np.int64(7)})
    assert changed.inference_values == {
        **options.inference_values,
        'min_score': 0.5,
        'max_centers': 7,
    }
    assert type(changed.postprocess.max_centers) is int
    assert dataclasses.replace(changed, postprocess=options.postprocess) == options


def make_segments(rng, num_groupings):
    """Segments of two images under each grouping, of 16 bits of IoU."""
    shape = (num_groupings, 2, 12)
    kind = rng.integers(0, 3, shape)  # Neither, matched, false.
    digits = np.zeros((*shape[:2], 3, 12), np.int32)
    digits[:, :, 0] = np.where(kind == 1, rng.integers(2**15, 2**16, shape), 0)
    return {
        # Beyond the classes in surplus rows, which are neither.
        'class': np.where(kind == 0, 300, rng.integers(0, 4, shape)),
        'score': rng.choice([0.1, 0.25, 0.5, 0.75], shape).astype(np.float32),
        'area': rng.choice([3, 8, 20], shape).astype(np.float32),
        'is_matched': kind == 1,
        'is_false': kind == 2,
        'iou_digits': digits,
        'num_labels': np.full((num_groupings, 4), 14, np.int32),
    }


@pytest.mark.parametrize(
    ('metric', 'classes'), [('pq', range(4)), ('pq_things', (1, 3)), ('pq_stuff', (0, 2))]
)
def test_quality_under_every_filter(metric, classes):
    candidates = {
        'min_score': (0.0, 0.25, 0.6),
        'min_area_px': (0, 8),
        'stuff_area_limit_px': (4, 20, 99),
    }
    rng = np.random.default_rng(0)
    batches = [[make_segments(rng, 2) for _ in range(2)] for _ in range(3)]
    histogram = SegmentHistogram(FORMAT, 4, candidates)
    for batch in batches:
        for i, segments in enumerate(batch):
            histogram.add(2 * i, segments, is_first=i == 0)
    found = histogram.find_qualities(metric)
    assert found.shape == (4, 3, 2, 3)
    for grouping, filters in itertools.product(
        range(4), itertools.product(*(enumerate(v) for v in candidates.values()))
    ):
        (i, min_score), (j, min_area), (k, limit) = filters
        qualities = []
        for c in classes:
            tp = fp = iou = 0.0
            for batch in batches:
                s = {key: x[grouping % 2] for key, x in batch[grouping // 2].items()}
                keep = (s['class'] == c) & (
                    (s['score'] >= np.float32(min_score)) & (s['area'] >= min_area)
                    if c in FORMAT.thing_classes
                    else s['area'] >= limit
                )
                tp += (keep & s['is_matched']).sum()
                fp += (keep & s['is_false']).sum()
                iou += s['iou_digits'][:, 0][keep & s['is_matched']].sum() / 2**16
            labels = 14 * len(batches)
            qualities.append(iou / (tp + 0.5 * fp + 0.5 * (labels - tp)))
        assert found[grouping, i, j, k] == pytest.approx(np.mean(qualities))
