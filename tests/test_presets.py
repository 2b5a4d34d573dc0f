"""A preset brings the rules of its origin along; the configuration may override each."""

import dataclasses
import inspect

import pytest

from configs import common
from pdl_jax.config import make_step_options, postprocess_arguments, validate_config
from pdl_jax.dialects import DIALECTS
from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.presets import PRESETS


def _make_config(preset, **fields):
    config = common.get_config()
    config.data.path = 'unused'
    config.model.preset = preset
    config.update_from_flattened_dict(
        {key.replace('__', '.'): value for key, value in fields.items()}
    )
    validate_config(config)
    return config


def test_families_and_fields_exist():
    assert set(DIALECTS) <= {preset.split('/')[0] for preset in PRESETS}
    known = {
        'targets': {field.name for field in dataclasses.fields(TargetOptions)},
        'loss': {field.name for field in dataclasses.fields(LossOptions)},
        'postprocess': set(inspect.signature(post_process).parameters),
    }
    for sections in DIALECTS.values():
        for section, rules in sections.items():
            assert set(rules) <= known[section]


@pytest.mark.parametrize(
    'preset',
    ['deeplab2/resnet50_os32', 'paper/xception71', 'tensorflow/deeplab_v3_mobilenet_v2_os16'],
)
def test_without_a_dialect_the_defaults_hold(preset):
    config = _make_config(preset)
    options = make_step_options(config, label_format=None)
    assert options.targets == TargetOptions()
    assert options.loss == LossOptions()
    assert set(postprocess_arguments(config)) == {
        'center_threshold',
        'nms_kernel_px',
        'max_centers',
        'stuff_area_limit',
    }


def test_detectron2_brings_its_rules():
    config = _make_config('detectron2/resnet52_os16_dsconv')
    options = make_step_options(config, label_format=None)
    assert (options.targets.center_rounding, options.targets.is_offset_to_pixel) == (
        'nearest',
        False,
    )
    assert (options.loss.scope, options.loss.offset_weight) == ('batch', 0.02)
    assert postprocess_arguments(config)['top_k_rule'] == 'above_kth'


def test_the_configuration_overrides_the_preset():
    config = _make_config(
        'bowenc0221/resnet50_os32',
        targets__is_crowd_drawn=False,
        loss__scope='image',
        postprocess__score_rule='assigned',
    )
    options = make_step_options(config, label_format=None)
    assert (options.targets.center_rounding, options.targets.is_crowd_drawn) == ('down', False)
    assert (options.loss.scope, options.loss.offset_weight) == ('image', 0.01)
    assert postprocess_arguments(config)['score_rule'] == 'assigned'


@pytest.mark.parametrize(
    'field',
    ['targets.center_rounding', 'loss.scope', 'postprocess.top_k_rule', 'postprocess.score_rule'],
)
def test_unknown_rules_are_named(field):
    with pytest.raises(ValueError, match=rf"config.{field} \(='none'\) must be one of"):
        _make_config('deeplab2/resnet50_os32', **{field.replace('.', '__'): 'none'})
