"""Fresh cases against the original programs themselves, where they are installed.

What they need is listed in goldens/make_street_scenes.py.
"""

import numpy as np
import pytest

from pdl_jax.evaluation.files.score_files import evaluate_files
from tests.metrics.panoptic_cases import coco_stats, prepare_street_scenes, write_files

for package in ('cityscapesscripts', 'panopticapi', 'pycocotools'):
    pytest.importorskip(package)

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
