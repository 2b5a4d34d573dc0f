"""Targets against those of DeepLab2's own program, and their properties."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.preprocess.targets import TargetOptions, draw_centers, make_targets
from pdl_jax.typing import LabelFormat

CASES = (
    'all_stuff',
    'all_void',
    'area_4096_and_4032',
    'crowd_and_void',
    'half_pixel_centers',
    'random_00',
    'random_01',
    'random_02',
    'random_03',
    'random_04',
    'ring_center_outside',
)
FORMAT = LabelFormat(num_classes=3, thing_classes=(1, 2), ignore_label=255, label_divisor=100)


# The goldens 'brute' and 'brute_round' follow the same rules without the heat of crowds. Those of
# the PyTorch programs were made with their ignore_crowd_in_semantic on.
RULES = {
    'deeplab2': {},
    'brute': {'center_rounding': 'down', 'is_offset_to_pixel': False, 'is_crowd_ignored': True},
    'brute_round': {'is_offset_to_pixel': False, 'is_crowd_ignored': True},
    'bowen': {
        'center_rounding': 'down',
        'is_offset_to_pixel': False,
        'is_crowd_drawn': True,
        'is_crowd_ignored': True,
    },
    'd2': {'is_offset_to_pixel': False, 'is_crowd_drawn': True, 'is_crowd_ignored': True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('case', 'convention'),
    [(case, convention) for convention in ('deeplab2', 'bowen', 'd2') for case in CASES]
    + [
        (case, convention)
        for convention in ('brute', 'brute_round')
        for case in ('crowd_and_void', 'half_pixel_centers')
    ],
)
def test_equals_the_originals(find_golden, case, convention):
    golden = np.load(find_golden('targets', case))
    params = json.loads(str(golden['params']))
    label_format = LabelFormat(
        params['num_classes'],
        tuple(params['thing_ids']),
        params['ignore_label'],
        params['label_divisor'],
    )
    options = TargetOptions(
        sigma_px=params['sigma'],
        small_instance_area_px=params['small_area'],
        small_instance_weight=params['small_weight'],
        **{'is_crowd_ignored': False, **RULES[convention]},
    )
    make = jax.jit(make_targets, static_argnames=('label_format', 'options'))
    targets = make(jnp.asarray(golden['panoptic']), label_format=label_format, options=options)
    np.testing.assert_array_equal(targets['semantic'], golden[f'{convention}_semantic'])
    np.testing.assert_allclose(
        targets['offset'], golden[f'{convention}_offset'].transpose(1, 2, 0), atol=1e-5
    )
    np.testing.assert_allclose(targets['center'], golden[f'{convention}_center'], atol=1e-7)
    np.testing.assert_array_equal(targets['center_weight'], golden[f'{convention}_center_weights'])
    np.testing.assert_array_equal(targets['offset_weight'], golden[f'{convention}_offset_weights'])
    np.testing.assert_array_equal(
        targets['semantic_weight'], golden[f'{convention}_semantic_weights']
    )


def test_crowd_is_void_for_the_semantic_loss_when_asked():
    panoptic = jnp.array([[100, 101, 0, 25500]], jnp.int32)
    targets = make_targets(panoptic, label_format=FORMAT, options=TargetOptions())
    np.testing.assert_array_equal(targets['semantic'], [[255, 1, 0, 255]])
    np.testing.assert_array_equal(targets['center_weight'], [[0, 1, 1, 0]])
    np.testing.assert_array_equal(targets['offset_weight'], [[0, 1, 0, 0]])


def test_instances_beyond_the_limit_get_no_instance_loss():
    panoptic = jnp.array([[101, 102, 103, 0]], jnp.int32)
    targets = make_targets(panoptic, label_format=FORMAT, options=TargetOptions(max_instances=2))
    np.testing.assert_array_equal(targets['offset_weight'], [[1, 1, 0, 0]])
    np.testing.assert_array_equal(targets['center_weight'], [[1, 1, 0, 1]])
    np.testing.assert_array_equal(targets['semantic'], [[1, 1, 1, 0]])


def test_vmap_equals_single_images():
    rng = np.random.default_rng(0)
    panoptic = rng.choice([0, 101, 102, 203, 100, 25500], size=(3, 12, 16)).astype(np.int32)
    options = TargetOptions(sigma_px=1.0, max_instances=8)

    def make(image):
        return make_targets(image, label_format=FORMAT, options=options)

    batched = jax.jit(jax.vmap(make))(jnp.asarray(panoptic))
    for i in range(3):
        for key, value in make(jnp.asarray(panoptic[i])).items():
            np.testing.assert_array_equal(batched[key][i], value, err_msg=key)


def test_centers_at_the_border_are_clipped_and_reach_one():
    heat = draw_centers(
        jnp.array([[0, 0], [9, 19], [0, 0]]), jnp.array([True, True, False]), (10, 20), sigma_px=2.0
    )
    assert heat.shape == (10, 20)
    assert heat[0, 0] == 1 and heat[9, 19] == 1
    np.testing.assert_allclose(heat[0, 2], np.exp(-0.5), rtol=1e-6)
    # The square patch ends 3 sigma + 1 pixels from its centre.
    assert heat[0, 7] > 0 and heat[0, 8] == 0
