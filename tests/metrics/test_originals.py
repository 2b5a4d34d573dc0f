"""Fresh and stored cases against the original programs, if they are installed.

goldens/make_street_scenes.py lists what to install.
"""

import numpy as np
import pytest

from pdl_jax.evaluation.files.score_files import evaluate_files
from tests.metrics.panoptic_cases import (
    coco_stats,
    prepare_street_scenes,
    read_reference_cases,
    write_files,
    write_reference_cases,
)

for package in ('cityscapesscripts', 'panopticapi', 'pycocotools'):
    pytest.importorskip(package)

from panopticapi.evaluation import pq_compute  # noqa: E402

from tests.metrics.goldens.make_street_scenes import STUFF, THINGS, make_cases  # noqa: E402


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_equals_the_original_programs(seed, tmp_path):
    cases = prepare_street_scenes(make_cases(seed))
    files = write_files(
        tmp_path,
        cases['labels'],
        cases['predictions'],
        things=THINGS,
        stuff=STUFF,
        scores=cases['scores'],
    )
    report, _ = evaluate_files(**files, dataset='cityscapes', metrics=('pq', 'ap'))
    for group, row in zip(('All', 'Things', 'Stuff'), cases['panoptic_averages'], strict=True):
        ours = [report['pq'][group][key] for key in ('pq', 'sq', 'rq', 'n')]
        np.testing.assert_allclose(ours, row, atol=1e-12)
    ours = [report['ap']['ap'], report['ap']['ap50']]
    np.testing.assert_allclose(ours, cases['cityscapes_average_ap'], atol=1e-12)
    report, _ = evaluate_files(**files, metrics=('ap',))
    np.testing.assert_allclose(coco_stats(report['ap']), cases['coco_stats'], atol=1e-12)


@pytest.mark.parametrize('name', ['coco', 'voc'])
def test_stored_numbers_are_those_of_panopticapi(name, tmp_path):
    reference = read_reference_cases(name)
    files = write_reference_cases(tmp_path, reference)
    result = pq_compute(
        *(str(files[key]) for key in ('gt_json', 'pred_json', 'gt_folder', 'pred_folder'))
    )
    for group in ('All', 'Things', 'Stuff'):
        assert result[group] == pytest.approx(reference.expected['pq'][group], abs=1e-12)
    for c, row in reference.expected['pq']['per_class'].items():
        ours = result['per_class'][reference.categories[int(c)]]
        assert ours == pytest.approx(row, abs=1e-12)
