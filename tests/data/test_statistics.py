"""Statistics of a split's labels, and the warnings about labels that teach nothing."""

import dataclasses
import json
import math

import numpy as np
import pytest

from pdl_jax.data import catalog
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import open_split
from pdl_jax.data.statistics import (
    SplitStatistics,
    StatisticsCollector,
    count_labels,
    find_warnings,
    format_statistics,
)
from tests.data.tiny_folder import write_tiny_folder

SPEC = catalog.from_categories(
    'own',
    [
        {'id': 1, 'name': 'nucleus', 'isthing': 1},
        {'id': 2, 'name': 'tissue', 'isthing': 0},
        {'id': 3, 'name': 'fold', 'isthing': 0},
    ],
)
VOID = SPEC.label_format.void_label


def make_label() -> np.ndarray:
    """Two 4x4 nuclei, 10 px apart, on tissue, with two rows of void."""
    label = np.full((20, 30), 1000, np.int32)
    label[:2] = VOID
    label[4:8, 3:7] = 1
    label[4:8, 13:17] = 2
    return label


def compute(*labels: np.ndarray, spec: catalog.DatasetSpec = SPEC) -> SplitStatistics:
    collector = StatisticsCollector(spec)
    for label in labels:
        collector.add(count_labels(label, spec))
    return collector.compute()


def test_counts_are_those_of_the_label():
    empty = np.full((10, 10), 1000, np.int32)
    statistics = compute(make_label(), empty)
    assert statistics.num_images == 2 and statistics.num_images_without_objects == 1
    assert statistics.pixels == (32, 600 - 60 - 32 + 100, 0, 60)
    assert statistics.images == (1, 2, 0)
    assert statistics.objects == (2, 0, 0)
    assert statistics.diameters_px[0] == (round(2 * math.sqrt(16 / math.pi), 2),) * 5
    assert statistics.diameters_px[1] is None
    assert statistics.neighbor_distances_px == (10.0,) * 5
    assert statistics.heights_px == (10, 15, 20)
    assert statistics.void_share == 60 / 700
    stored = json.loads(json.dumps(statistics.to_dict()))
    assert SplitStatistics.from_dict(stored, num_classes=3, where='a.json') == statistics


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('pixels', [1, 2], r'a\.json: pixels must be 4 numbers >= 0, got \[1, 2\]'),
        ('pixels', 3, r'pixels must be list, got 3'),
        ('objects', [1, -2, 3], r'objects must be 3 numbers'),
        ('images', [1, True, 3], r'images must be 3 numbers'),
        ('heights_px', [1, float('nan'), 3], r'heights_px must be 3 numbers'),
        ('diameters_px', [None], r'diameters_px must have 3 values, got 1'),
        ('diameters_px', [None, [1], None], r'diameters_px of a\.json: 1 must be 5 numbers'),
        ('neighbor_distances_px', 'x', r'neighbor_distances_px must be list or NoneType'),
        ('num_images', 1.0, r'num_images must be int, got 1\.0'),
        ('num_images', -1, r'num_images must lie in 0'),
    ],
)
def test_damaged_statistics_are_named(field, value, message):
    stored = json.loads(json.dumps(compute(make_label()).to_dict()))
    with pytest.raises(ValueError, match=message):
        SplitStatistics.from_dict({**stored, field: value}, num_classes=3, where='a.json')
    stored.pop(field)
    with pytest.raises(ValueError, match=f"a.json lacks the field '{field}'"):
        SplitStatistics.from_dict(stored, num_classes=3, where='a.json')


def test_neighbours_are_found_among_many_objects():
    # A grid of 40 x 40 single pixels, 3 px apart, of which some are searched.
    label = np.full((120, 120), 1000, np.int32)
    label[::3, ::3] = np.arange(1, 1601).reshape(40, 40)
    spec = dataclasses.replace(SPEC, label_divisor=2000)
    label[label == 1000] = 2000
    label[0::3, 0::3] = np.arange(1, 1601).reshape(40, 40)
    assert compute(label, spec=spec).neighbor_distances_px == (3.0,) * 5


def test_void_inside_the_classes_is_no_class():
    coco = catalog.coco()
    label = np.zeros((4, 4), np.int32)
    label[:1] = coco.class_of_category[1] * coco.label_divisor + 1
    statistics = compute(label, spec=coco)
    assert statistics.pixels[0] == 0 and statistics.pixels[-1] == 12
    assert statistics.objects[coco.class_of_category[1]] == 1


@pytest.mark.parametrize(
    ('paint', 'words'),
    [
        (lambda label: label, ["1 of 3 classes have no pixel ('fold')"]),
        (lambda label: np.where(label >= 1000, VOID, label), ["'nucleus' is the only class"]),
        (lambda label: np.full_like(label, VOID), ['every pixel is void']),
        (lambda label: np.where(label[0] >= 0, VOID, label), ['every pixel is void']),
    ],
)
def test_labels_that_teach_nothing_are_named(paint, words):
    warnings = find_warnings(compute(paint(make_label())), SPEC)
    assert len([w for w in warnings if words[0] in w]) == 1


def test_a_mostly_void_split_is_named_and_a_complete_one_is_not():
    label = make_label()
    label[12:16] = 2000
    assert find_warnings(compute(label), SPEC) == []
    label[1:3] = VOID
    label[8:12] = label[16:] = VOID
    label[:, 20:] = VOID
    assert '% of the pixels are void' in find_warnings(compute(label), SPEC)[0]


def test_table_shows_every_class():
    table = format_statistics(compute(make_label()), SPEC).splitlines()
    assert [line.split('|')[0].strip() for line in table[2:]] == ['nucleus', 'tissue', 'fold']
    assert '20x30' in table[0] and '10.0% void' in table[0]


def test_prepare_stores_and_prints_them(tmp_path, capsys):
    folder = write_tiny_folder(tmp_path)
    prepare_panoptic_folder(**folder, out_dir=tmp_path / 'out', num_processes=0)
    statistics = open_split(tmp_path / 'out', 'train').statistics
    assert statistics is not None and statistics.num_images == len(
        open_split(tmp_path / 'out', 'train')
    )
    assert sum(statistics.objects) > 0
    assert 'diameter px' in capsys.readouterr().out
