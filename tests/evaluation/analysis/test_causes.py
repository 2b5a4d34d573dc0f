"""Causes of lost panoptic quality: hand-made cases, sums, and the tables of the device."""

import functools

import jax
import numpy as np
import pytest

from pdl_jax.evaluation.analysis.causes import (
    CAUSES,
    join_images,
    judge_segments,
    split_loss,
)
from pdl_jax.evaluation.analysis.segments import ImageSegments, read_table
from pdl_jax.metrics.image_tables import describe_images
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.typing import LabelFormat

# Class 0 is stuff, 1 and 2 are things, 3 is void.
FORMAT = LabelFormat(3, (1, 2), 3, 100)
VOID = 300
SEGMENTS = 24


def list_segments(label, prediction, label_format=FORMAT):
    """All segments of two maps and all their overlaps, pixel by pixel."""
    divisor, is_thing = label_format.label_divisor, label_format.thing_table()

    def find(panoptic):
        ids = [i for i in np.unique(panoptic) if i // divisor < label_format.num_classes]
        return [i for i in ids if i // divisor != label_format.ignore_label]

    labels, predictions = find(label), find(prediction)
    is_void = ~np.isin(label, labels)
    crowds = [i for i in labels if is_thing[i // divisor] and i % divisor == 0]
    pairs = [
        (g, p, int(np.sum((label == labels[g]) & (prediction == predictions[p]))))
        for g in range(len(labels))
        for p in range(len(predictions))
    ]
    row, column, shared = np.array([x for x in pairs if x[2]], np.int64).reshape(-1, 3).T
    masks = [prediction == i for i in predictions]
    own_crowd = [
        np.isin(label, [c for c in crowds if c // divisor == i // divisor]) for i in predictions
    ]
    integers = functools.partial(np.array, dtype=np.int64)
    return ImageSegments(
        label_class=integers([i // divisor for i in labels]),
        label_area=integers([np.sum(label == i) for i in labels]),
        is_crowd=np.array([i in crowds for i in labels], bool),
        predicted_class=integers([i // divisor for i in predictions]),
        area=integers([m.sum() for m in masks]),
        score=np.full(len(masks), 0.5),
        void_px=integers([np.sum(m & is_void) for m in masks]),
        crowd_px=integers([np.sum(m & c) for m, c in zip(masks, own_crowd, strict=True)]),
        row=row,
        column=column,
        shared=shared,
    )  # fmt: skip


def tabulate(labels, predictions, label_format=FORMAT, max_segments=SEGMENTS):
    """Segments of each image by the tables of the device."""
    scores = {
        'label': np.full((len(labels), 1), -1, np.int32),
        'score': np.zeros((len(labels), 1), np.float32),
    }
    describe = functools.partial(
        describe_images, label_format=label_format, max_segments=max_segments
    )
    tables = jax.device_get(
        jax.jit(describe)(labels, predictions, predictions // label_format.label_divisor, scores)
    )
    is_thing = label_format.thing_table()
    return tables, [
        read_table(
            {key: array[i] for key, array in tables.items()},
            is_thing=is_thing,
            label_divisor=label_format.label_divisor,
        )
        for i in range(len(labels))
    ]


def draw(*boxes, size=(20, 20), fill=VOID):
    """A map with boxes (value, y0, y1, x0, x1)."""
    panoptic = np.full(size, fill, np.int32)
    for value, y0, y1, x0, x1 in boxes:
        panoptic[y0:y1, x0:x1] = value
    return panoptic


def name_causes(label, prediction):
    judged = judge_segments(list_segments(label, prediction))
    return (
        [CAUSES[c] for c in judged.label_cause],
        [CAUSES[c] for c in judged.predicted_cause],
    )


A, B = (0, 10, 0, 10), (0, 10, 10, 20)


@pytest.mark.parametrize(
    ('label', 'prediction', 'causes'),
    [
        # The label's void elsewhere: only what lies on labelled pixels counts.
        (draw((101, *A)), draw((101, *A)), (['inexact'], ['inexact'])),
        (draw((101, *A)), draw((201, *A)), (['wrong_class'], ['wrong_class'])),
        (draw((101, *A), (102, *B)), draw((101, 0, 10, 0, 20)), (['merged'] * 2, ['merged'])),
        # The larger one of two is matched all the same, and the smaller is merged into it.
        (
            draw((101, 0, 10, 0, 16), (102, 0, 10, 16, 20)),
            draw((101, 0, 10, 0, 20)),
            (['inexact', 'merged'], ['inexact']),
        ),
        (
            draw((101, *A)),
            draw((101, 0, 10, 0, 5), (102, 0, 10, 5, 10)),
            (['split'], ['split'] * 2),
        ),
        # A half is no match; more than a half is, and the rest is a piece too many.
        (
            draw((101, *A)),
            draw((101, 0, 10, 0, 6), (102, 0, 10, 6, 10)),
            (['inexact'], ['inexact', 'split']),
        ),
        (
            draw((101, *A), (1, *B)),
            draw((101, 0, 10, 0, 4), (1, *B)),
            (['inexact', 'poor_outline'], ['inexact', 'poor_outline']),
        ),
        (
            draw((101, *A), (1, *B)),
            draw((102, *B), (1, *A)),
            (['wrong_class', 'wrong_class'], ['wrong_class', 'wrong_class']),
        ),
        (draw((101, *A)), draw(), (['missed'], [])),
        (
            draw((1, *A), (1, *B)),
            draw((1, 0, 10, 0, 12), (101, 0, 10, 12, 20)),
            (['inexact'], ['inexact', 'false']),
        ),
        # On void, and on a crowd of its class, a prediction is excused; the crowd is no label.
        (draw((101, *A)), draw((101, *A), (102, *B)), (['inexact'], ['inexact'])),
        (draw((100, *A)), draw((101, *A)), ([], [])),
        (draw((100, *A)), draw((201, *A)), ([], ['false'])),
    ],
)  # fmt: skip
def test_segments_get_their_cause(label, prediction, causes):
    assert name_causes(label, prediction) == causes


def draw_at_random(rng, size=(24, 32)):
    """A map of a few boxes, of which later ones cover others, and a disturbed copy of it."""

    def scatter(panoptic, count):
        for _ in range(count):
            y, x = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
            height, width = rng.integers(2, 14, 2)
            value = rng.choice([0, 100, 200, VOID, *(101 + np.arange(6)), *(201 + np.arange(6))])
            panoptic[y : y + height, x : x + width] = value
        return panoptic

    label = scatter(np.full(size, rng.choice([0, VOID]), np.int32), 12)
    prediction = np.roll(label, rng.integers(-2, 3, 2), (0, 1))
    values = np.arange(VOID + 1)
    # Some segments become others, so that all causes occur.
    chosen = rng.random(len(values)) < 0.3
    values[chosen] = rng.permutation(values)[chosen]
    prediction = values[prediction]
    prediction[prediction > VOID] = VOID
    return label, scatter(prediction.astype(np.int32), 5)


@pytest.fixture(scope='module')
def random_maps():
    rng = np.random.default_rng(5)
    pairs = [draw_at_random(rng) for _ in range(40)]
    return tuple(np.stack(maps) for maps in zip(*pairs, strict=True))


def check_sums(judged, quality, num_classes):
    """The parts of each class add up to 1 - PQ of the metric, and sizes are its counts."""
    parts, size = split_loss(join_images(judged), num_classes=num_classes)
    per_class = quality['per_class']
    np.testing.assert_array_equal(size, per_class['tp'] + (per_class['fp'] + per_class['fn']) / 2)
    assert (parts >= 0).all()
    lost = np.where(per_class['valid'], 1 - per_class['pq'], 0)
    np.testing.assert_allclose(parts.sum(1), lost, rtol=0, atol=1e-9)
    return parts


def test_parts_add_up_to_the_loss(random_maps):
    labels, predictions = random_maps
    metric = PanopticQuality.for_format(FORMAT, max_segments=SEGMENTS)
    counts = jax.jit(metric.from_model_output)(
        panoptic_label=labels,
        panoptic_prediction=predictions,
        valid=np.ones(len(labels), bool),
    )
    tables, segments = tabulate(labels, predictions)
    judged = [judge_segments(image) for image in segments]
    parts = check_sums(judged, counts.compute(), FORMAT.num_classes)
    assert (parts.sum(0) > 0).all(), dict(zip(CAUSES, parts.sum(0), strict=True))
    right = labels // 100 == predictions // 100
    np.testing.assert_array_equal(tables['num_labelled'], (labels < VOID).sum((1, 2)))
    np.testing.assert_array_equal(tables['num_right'], (right & (labels < VOID)).sum((1, 2)))


def test_largest_overlaps_are_enough(random_maps):
    """The tables, with ten pairs a segment, give the same causes as all pairs."""
    labels, predictions = random_maps
    for label, prediction, segments in zip(
        labels, predictions, tabulate(labels, predictions)[1], strict=True
    ):
        expected = judge_segments(list_segments(label, prediction))
        judged = judge_segments(segments)
        for name in judged._fields:
            if name != 'score':
                np.testing.assert_array_equal(getattr(judged, name), getattr(expected, name), name)
