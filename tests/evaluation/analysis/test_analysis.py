"""Sizes, calibration and images of an analysis, by hand."""

import numpy as np
import pytest

from pdl_jax.evaluation.analysis.analysis import AnalyzedClasses, make_analysis, score_image
from pdl_jax.evaluation.analysis.calibration import calibrate
from pdl_jax.evaluation.analysis.causes import FALSE, INEXACT, MISSED, WRONG_CLASS, JudgedSegments
from pdl_jax.evaluation.analysis.object_sizes import score_sizes

# Class 0 is stuff.
IS_THING = np.array([False, True, True])
CLASSES = AnalyzedClasses(('sky', 'cat', 'dog'), ('sky', 'cat', 'dog'), IS_THING)


def make_segments(labels, predictions):
    """Labels (class, area, cause, iou) and predictions (class, area, cause, score)."""
    label_class, label_area, label_cause, iou = zip(*labels, strict=True)
    predicted_class, area, cause, score = zip(*predictions, strict=True)
    mistaken = [2 if c == WRONG_CLASS else -1 for c in label_cause]
    return JudgedSegments(
        *map(np.array, (label_class, label_area, label_cause, iou, mistaken)),
        *map(np.array, (predicted_class, area, score, cause)),
    )


SEGMENTS = make_segments(
    [
        (0, 5000, INEXACT, 0.9),
        (1, 1023, INEXACT, 0.8),
        (1, 1024, MISSED, 0.0),
        (1, 9216, WRONG_CLASS, 0.0),
        (2, 100, INEXACT, 0.6),
    ],
    [
        (0, 5000, INEXACT, 0.3),
        (1, 2000, INEXACT, 0.95),
        (2, 90, INEXACT, 0.85),
        (2, 9000, WRONG_CLASS, 0.85),
        (1, 10, FALSE, 0.05),
    ],
)


def test_sizes_are_those_of_the_labels():
    small, medium, large = score_sizes(SEGMENTS, is_thing=IS_THING)['coco']
    # Cat: 0.8 / (1 + 1/2 false); dog: 0.6 / 1.
    assert small == {
        'name': 'small', 'min_px': 0, 'max_px': 1024, 'tp': 2, 'fp': 1, 'fn': 0,
        'pq': pytest.approx((0.8 / 1.5 + 0.6) / 2), 'sq': pytest.approx(0.7),
        'rq': pytest.approx((1 / 1.5 + 1) / 2),
    }  # fmt: skip
    # The false prediction of the dog has its own size, below 96 x 96.
    assert (medium['tp'], medium['fp'], medium['fn'], medium['pq']) == (0, 1, 1, 0)
    assert (large['tp'], large['fp'], large['fn'], large['max_px']) == (0, 0, 1, None)


def test_quantiles_hold_equally_many_labels():
    parts = score_sizes(SEGMENTS, is_thing=IS_THING)['quantiles']
    # Areas 100, 1023, 1024, 9216: one each.
    assert [row['tp'] + row['fn'] for row in parts] == [1, 1, 1, 1]
    assert parts[0]['min_px'] == 0 and parts[-1]['max_px'] is None
    same = SEGMENTS._replace(label_area=np.full(5, 7))
    assert len(score_sizes(same, is_thing=IS_THING)['quantiles']) == 2
    no_things = score_sizes(SEGMENTS, is_thing=np.zeros(3, bool))
    assert no_things['quantiles'] == [] and no_things['coco'][0]['pq'] is None


def test_calibration_compares_scores_with_the_share_that_is_right():
    result = calibrate(SEGMENTS, is_thing=IS_THING)
    bins = {b['low']: b for b in result['bins'] if b['count']}
    assert {low: (b['count'], b['precision']) for low, b in bins.items()} == {
        0.0: (1, 0.0), 0.8: (2, 0.5), 0.9: (1, 1.0),
    }  # fmt: skip
    assert bins[0.8]['score'] == pytest.approx(0.85)
    assert result['ece'] == pytest.approx((0.05 + 2 * 0.35 + 0.05) / 4)
    assert result['precision'] == 0.5 and result['mean_score'] == pytest.approx(0.675)


@pytest.mark.parametrize('score', [np.nan, -0.1, 7.0])
def test_scores_that_are_no_probabilities_are_not_calibrated(score):
    assert calibrate(SEGMENTS._replace(score=np.full(5, score)), is_thing=IS_THING) is None


def test_image_has_the_mean_of_its_classes():
    image = score_image('a.png', SEGMENTS, num_classes=4)
    cat, dog = 0.8 / (1 + 1 + 0.5), 0.6 / 1.5
    assert image.score == pytest.approx((0.9 + cat + dog) / 3)
    assert (image.tp, image.fp, image.fn) == (3, 2, 2)
    empty = make_segments([(0, 1, 0, 1.0)], [(0, 1, 0, 1.0)])
    empty = JudgedSegments(*(x[:0] for x in empty))
    assert score_image('b.png', empty, num_classes=4).score is None


def test_analysis_of_all_images():
    confusion = np.array([[5, 0, 1, 0], [0, 7, 0, 2], [0, 0, 9, 0]])
    images = [score_image(name, SEGMENTS, num_classes=3) for name in ('a.png', 'b.png')]
    analysis = make_analysis(CLASSES, confusion, images, [SEGMENTS, SEGMENTS])
    assert analysis['confusion'] == [[0, 0, 5], [0, 2, 1], [1, 1, 7], [1, 3, 2], [2, 2, 9]]
    assert analysis['wrong_classes'] == [[1, 2, 2]]
    cat = analysis['loss']['per_class']['cat']
    # Twice TP + FP/2 + FN/2 = 2.5, in 5 halves.
    assert cat['inexact'] == pytest.approx(0.2 / 2.5)
    assert cat['missed'] == cat['wrong_class'] == cat['false'] == pytest.approx(0.5 / 2.5)
    assert analysis['loss']['Stuff'] == analysis['loss']['per_class']['sky']
    things = analysis['loss']['Things']
    dog = analysis['loss']['per_class']['dog']
    assert things == pytest.approx({key: (cat[key] + dog[key]) / 2 for key in cat})
    semantic = make_analysis(CLASSES, confusion, images, None)
    assert 'loss' not in semantic and semantic['images']['file_name'] == ['a.png', 'b.png']
