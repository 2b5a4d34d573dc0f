"""A preset brings the rules of its origin along; the configuration may override each."""

import dataclasses

import pytest

from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.postprocess.panoptic import PostprocessOptions
from pdl_jax.preprocess.targets import TargetOptions
from pdl_jax.presets import PRESETS, find_preset
from pdl_jax.systems import SYSTEMS, find_options_class
from tests.test_experiment import make_experiment


def test_rules_are_fields():
    for preset in PRESETS.values():
        assert preset.system in ('', *SYSTEMS)
        options = find_options_class(preset.system or 'panoptic_deeplab')
        kinds = {field.name: type(field.default) for field in dataclasses.fields(options)}
        for section in ('targets', 'loss', 'postprocess'):
            fields = {field.name for field in dataclasses.fields(kinds[section])}
            assert set(getattr(preset, section)) <= fields


@pytest.mark.parametrize(
    'preset',
    ['deeplab2/resnet50_os32', 'paper/xception71', 'tensorflow/deeplab_v3_mobilenet_v2_os16'],
)
def test_without_rules_of_the_preset_the_defaults_hold(preset):
    system = make_experiment(model__preset=preset).system
    assert system.targets == TargetOptions()
    assert system.loss == LossOptions()
    # The configuration has values of its own for these four.
    assert system.postprocess == PostprocessOptions(
        center_threshold=0.1, nms_kernel_px=13, max_centers=200, stuff_area_limit_px=2048
    )
    assert not find_preset(preset).postprocess


def test_detectron2_brings_its_rules():
    system = make_experiment(model__preset='detectron2/resnet52_os16_dsconv').system
    assert (system.targets.center_rounding, system.targets.is_offset_to_pixel) == (
        'nearest',
        False,
    )
    assert (system.loss.scope, system.loss.offset_weight) == ('batch', 0.02)
    assert system.postprocess.top_k_rule == 'above_kth'


def test_the_configuration_overrides_the_preset():
    system = make_experiment(
        model__preset='bowenc0221/resnet50_os32',
        targets__is_crowd_drawn=False,
        loss__scope='image',
        postprocess__score_rule='assigned',
    ).system
    assert (system.targets.center_rounding, system.targets.is_crowd_drawn) == ('down', False)
    assert (system.loss.scope, system.loss.offset_weight) == ('image', 0.01)
    assert system.postprocess.score_rule == 'assigned'


@pytest.mark.parametrize(
    'field',
    ['targets.center_rounding', 'loss.scope', 'postprocess.top_k_rule', 'postprocess.score_rule'],
)
def test_unknown_rules_are_named(field):
    with pytest.raises(ValueError, match=rf"config.{field} \(='none'\) must be one of"):
        make_experiment(**{field.replace('.', '__'): 'none'})
