"""Recall by hand."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.proposals.candidates import Candidates
from pdl_jax.proposals.kitti_label import ObjectLabel
from pdl_jax.proposals.recall import RecallCounter, format_recall, select_objects
from pdl_jax.proposals.recall_page import write_recall_page


def make_label(x, kind='Car', height_px=50.0, occlusion=0, truncation=0.0):
    box = (x, 1.5, 10.0, 4.0, 1.5, 2.0, 0.0)
    return ObjectLabel(kind, truncation, occlusion, (0.0, x, height_px, x + 40.0), box)


def make_proposals(labels, valid):
    boxes = jnp.array([label.box for label in labels])
    image_boxes = jnp.array([label.image_box for label in labels])
    zeros = jnp.zeros(len(labels))
    return Candidates(boxes, image_boxes, zeros[:, None], zeros, jnp.array(valid))


def test_recall_counts_objects_that_the_first_proposals_cover(tmp_path):
    counter = RecallCounter(3)
    assert counter.counts == (1, 2, 3)
    one, two, three = (make_label(x) for x in (0.0, 20.0, 40.0))
    # Moved along by a third of its length, a box has an IoU of one half.
    near = make_label(4 / 3)
    counter.add('Car', make_proposals([near, two, one], [True, True, True]), [one, two])
    counter.add('Car', make_proposals([three, two, one], [False, True, True]), [three])
    counter.add('Pedestrian', make_proposals([one], [True]), [])
    report = counter.summarize()
    json.dumps(report)
    car = report['classes']['Car']
    assert car['num_objects'] == 3
    np.testing.assert_allclose(car['space']['0.25'], [1 / 3, 2 / 3, 2 / 3])
    assert car['space']['0.5'][0] in (0, pytest.approx(1 / 3))
    np.testing.assert_allclose(car['image']['0.7'], [1 / 3, 2 / 3, 2 / 3])
    assert report['classes']['Pedestrian']['space']['0.5'] == [None] * 3
    table = format_recall(report)
    assert '33.3   66.7   66.7' in table and 'Pedestrian' in table and '–' in table
    write_recall_page(tmp_path / 'recall.html', report)
    page = (tmp_path / 'recall.html').read_text()
    assert page.count('<svg') == 2 and 'Car, IoU 0.25' in page and '66.7' in page


def test_a_frame_with_fewer_proposals_than_asked_for():
    counter = RecallCounter(2000)
    assert counter.counts[-3:] == (500, 1000, 2000)
    one = make_label(0.0)
    counter.add('Car', make_proposals([one], [True]), [one])
    assert counter.summarize()['classes']['Car']['space']['0.5'] == [1.0] * len(counter.counts)


def test_objects_that_count():
    labels = [
        make_label(0.0),
        make_label(1.0, 'Pedestrian'),
        make_label(2.0, height_px=30.0),
        make_label(3.0, occlusion=2),
        make_label(4.0, truncation=0.2),
        make_label(5.0, occlusion=3),
        make_label(6.0, height_px=20.0),
    ]
    for difficulty, wanted in (('easy', [0]), ('moderate', [0, 2, 4]), ('hard', [0, 2, 3, 4])):
        found = select_objects(labels, 'Car', difficulty)
        assert [label.box[0] for label in found] == wanted
