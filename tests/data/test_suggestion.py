"""Suggested fields follow the statistics they are made of."""

import dataclasses

import pytest

from pdl_jax.data import catalog
from pdl_jax.data.statistics import SplitStatistics
from pdl_jax.data.suggestion import suggest_settings

SPEC = catalog.from_categories(
    'own',
    [
        {'id': 1, 'name': 'nucleus', 'isthing': 1},
        {'id': 2, 'name': 'tissue', 'isthing': 0},
        {'id': 3, 'name': 'fold', 'isthing': 0},
    ],
)
STATISTICS = SplitStatistics(
    num_images=50,
    num_images_without_objects=0,
    heights_px=(400.0, 500.0, 600.0),
    widths_px=(400.0, 500.0, 600.0),
    pixels=(3000, 7000, 5, 0),
    images=(50, 50, 1),
    objects=(1000, 0, 0),
    diameters_px=((8.0, 16.0, 24.0, 40.0, 60.0), None, None),
    neighbor_distances_px=(15.0, 20.0, 25.0, 30.0, 35.0),
)


def suggest(**changes) -> dict:
    statistics = dataclasses.replace(STATISTICS, **changes)
    return {s.field: s.value for s in suggest_settings(statistics, SPEC)}


def test_values_follow_sizes_distances_and_frequencies():
    fields = suggest()
    # 3 x 60 px, the 95 % quantile, is rounded up to whole strides; 24 / 4 is sigma.
    assert fields['augment.crop_height_px'] == fields['augment.crop_width_px'] == 193
    assert fields['targets.sigma_px'] == 6.0
    assert fields['targets.small_instance_area_px'] == 201
    assert fields['postprocess.nms_kernel_px'] == 13 and fields['postprocess.nms_kernel_px'] < 15
    assert fields['postprocess.stuff_area_limit_px'] == 500
    assert fields['loss.top_k_fraction'] == 0.2
    assert fields['train.batch_size'] * 193 * 193 <= 400_000


@pytest.mark.parametrize('side', [48.0, 130.0, 1000.0])
def test_crops_are_whole_strides_and_fit_small_images(side):
    sizes = (side, side, side)
    fields = suggest(heights_px=sizes, widths_px=sizes, diameters_px=((300.0,) * 5, None, None))
    assert (fields['augment.crop_height_px'] - 1) % 32 == 0
    assert fields['augment.crop_height_px'] < side + 32


def test_without_rare_classes_and_objects_fewer_fields_are_set():
    fields = suggest(
        pixels=(3000, 7000, 3000, 0),
        objects=(0, 0, 0),
        diameters_px=(None, None, None),
        neighbor_distances_px=None,
    )
    assert 'loss.top_k_fraction' not in fields and 'targets.sigma_px' not in fields
