"""The report of a run and that of score files: one conversion to JSON, one table."""

import json
import types

import numpy as np
import pytest

from pdl_jax.evaluation.files.file_report import make_file_report
from pdl_jax.evaluation.files.panoptic_files import Categories
from pdl_jax.evaluation.report import find_score, format_report, make_report, write_report
from pdl_jax.metrics.averages import average_covering, average_iou, average_quality

# Class 2 is neither labelled nor predicted, class 3 is only ever part of the semantic map.
NAMES = ('person', 'car', 'boat', 'road')
GROUPS = {'thing_classes': (0, 1, 2), 'stuff_classes': (3,)}
SPEC = types.SimpleNamespace(class_names=NAMES)
CATEGORIES = Categories((1, 3, 9, 100), NAMES, np.array([True, True, True, False]))


@pytest.fixture
def values():
    def count(*numbers):
        return np.array(numbers, np.int64)

    quality = average_quality(
        np.array([1.5, 0, 0, 0]), count(2, 0, 0, 0), count(0, 1, 0, 0), count(2, 0, 0, 0), **GROUPS
    )
    iou = average_iou(count(30, 0, 0, 40), count(40, 10, 0, 50), count(40, 10, 0, 50))
    covering = average_covering(np.array([3.0, 0, 0, 0]), np.array([4.0, 1, 0, 0]), **GROUPS)
    precision = {
        'ap': 0.25,
        'ap50': np.float64(0.5),
        'ap_large': None,
        'per_class': {
            'ap': np.array([0.25, 0, 0, 0]),
            'ap50': np.array([0.5, 0, 0, 0]),
            'valid': np.array([True, False, False, False]),
        },
    }
    return {'pq': quality, 'miou': iou, 'pc': covering, 'ap': precision}


TABLE = """\
                         |     PQ     SQ     RQ |      n
All                      |   25.0   37.5   33.3 |      2
Things                   |   25.0   37.5   33.3 |      2
Stuff                    |      -      -      - |      0
mIoU                     |   42.2
pixel accuracy           |   70.0
PC All                   |   37.5
PC Things                |   37.5
PC Stuff                 |      -
AP                       |   25.0
AP50                     |   50.0
AP_LARGE                 |      -
class                    |     PQ     SQ     RQ |     TP     FP     FN |     AP     PC    IoU
person                   |   50.0   75.0   66.7 |      2      0      2 |   25.0   75.0   60.0
car                      |    0.0    0.0    0.0 |      0      1      0 |      -    0.0    0.0
road                     |      -      -      - |      -      -      - |      -      -   66.7"""


def test_a_run_and_score_files_print_the_same_table(values):
    assert format_report(make_report(values, SPEC, num_images=4)) == TABLE
    report = make_file_report(values, CATEGORIES, num_images=4, notes=())
    names = dict(zip(CATEGORIES.keys, CATEGORIES.names, strict=True))
    assert format_report(report, names) == TABLE


def test_a_run_lists_the_classes_that_are_averaged(values, tmp_path):
    report = make_report(values, SPEC, num_images=4)
    write_report(report, str(tmp_path / 'new' / 'report.json'))
    assert json.loads((tmp_path / 'new' / 'report.json').read_text()) == report
    assert report['pq']['per_class'] == {
        'person': {'pq': 0.5, 'sq': 0.75, 'rq': 2 / 3, 'tp': 2, 'fp': 0, 'fn': 2},
        'car': {'pq': 0.0, 'sq': 0.0, 'rq': 0.0, 'tp': 0, 'fp': 1, 'fn': 0},
    }
    assert report['pq']['Stuff'] == {'pq': None, 'sq': None, 'rq': None, 'n': 0}
    assert report['iou_per_class'] == {'person': 0.6, 'car': 0.0, 'road': pytest.approx(2 / 3)}
    assert report['pc']['per_class'] == {'person': {'pc': 0.75}, 'car': {'pc': 0.0}}
    assert report['ap']['per_class'] == {'person': {'ap': 0.25, 'ap50': 0.5}}
    assert report['num_images'] == 4
    assert find_score(report) == 0.25


def test_files_list_all_categories_by_id(values):
    report = make_file_report(values, CATEGORIES, num_images=4, notes=['a note'])
    zeros = {'pq': 0.0, 'sq': 0.0, 'rq': 0.0, 'tp': 0, 'fp': 0, 'fn': 0}
    assert report['pq']['per_class'].keys() == {'1', '3', '9', '100'}
    assert report['pq']['per_class']['9'] == report['pq']['per_class']['100'] == zeros
    assert report['iou_per_class']['9'] is None and report['pc']['per_class']['9'] == {'pc': None}
    assert report['ap']['per_class'].keys() == {'1', '3', '9'}
    assert report['ap']['per_class']['3'] == {'ap': None, 'ap50': None}
    assert report['notes'] == ['a note']


def test_a_run_has_its_loss_if_it_was_computed(values):
    loss = {'total': 1.25, 'semantic': 0.25, 'center': 1.0, 'offset': float('nan')}
    report = make_report({**values, 'loss': loss}, SPEC, num_images=4)
    assert report['loss'] == {**loss, 'offset': None}
    line = 'loss                     |   1.25 = semantic 0.25, center 1, offset -'
    assert line in format_report(report).splitlines()
    # A system without terms has no loss to tell.
    assert 'loss' not in make_report({**values, 'loss': {'total': 0.0}}, SPEC, num_images=4)


def test_a_semantic_network_has_no_panoptic_quality(values):
    report = make_report({'miou': values['miou']}, SPEC, num_images=4)
    assert report['pq'] is None and report.keys() == {
        'pq', 'miou', 'pixel_accuracy', 'iou_per_class', 'num_images', 'warnings'
    }  # fmt: skip
    assert find_score(report) == report['miou'] == pytest.approx((0.6 + 0 + 2 / 3) / 3)
    assert find_score({'pq': None, 'miou': None}) == 0.0
    assert format_report(report).splitlines() == [
        'mIoU                     |   42.2',
        'pixel accuracy           |   70.0',
        'class                    |    IoU',
        'person                   |   60.0',
        'car                      |    0.0',
        'road                     |   66.7',
    ]


@pytest.mark.parametrize('num_classes', [1, 2])
def test_a_single_labelled_class_has_no_mean_iou_and_warnings_are_shown(num_classes):
    spec = types.SimpleNamespace(class_names=NAMES[:num_classes])
    iou = average_iou(*[np.array([30, 0][:num_classes])] * 3)
    report = make_report({'miou': iou}, spec, num_images=4, warnings=['only one class'])
    assert report['miou'] is None and report['pixel_accuracy'] is None
    table = format_report(report)
    assert 'mIoU                     |      -' in table and table.endswith(
        'warning: only one class'
    )
