"""Configurations: complete, valid, documented, and what the command line says about a wrong one."""

import ast
import dataclasses
import importlib.util
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys
import types
import typing

import numpy as np
import pytest

from configs import common
from pdl_jax import config as config_lib
from pdl_jax.models.options import ModelOptions
from pdl_jax.preprocess.augment import resize_to_range

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(
    path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('common', '__init__')
)


def load_config(name, monkeypatch):
    """What the flag --config=configs/NAME.py does: the file is loaded by its path."""
    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location(f'config_{name}', ROOT / 'configs' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def list_fields(config, prefix=''):
    """Dotted names of all fields with the types of their values."""
    fields = {}
    for key, value in config.items():
        if hasattr(value, 'items'):
            fields |= list_fields(value, f'{prefix}{key}.')
        else:
            fields[prefix + key] = type(value)
    return fields


def make_config(**fields):
    """The defaults with some fields set, by names such as train__batch_size."""
    config = common.get_config()
    config.data.path = 'data/coco'
    with config.ignore_type():
        config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    return config


@pytest.mark.parametrize('name', FILES)
def test_file_has_exactly_the_common_fields(name, monkeypatch):
    fields, defaults = list_fields(load_config(name, monkeypatch)), list_fields(common.get_config())
    assert fields.keys() == defaults.keys()
    # A field that the preset decides is empty until a file sets it.
    different = {
        key for key in fields if fields[key] != defaults[key] and defaults[key] is not type(None)
    }
    assert not different


def test_every_field_of_a_network_can_be_overridden():
    fields = {field.name: field.type for field in dataclasses.fields(ModelOptions)}
    for name, kind in fields.items():
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        assert common._MODEL_FIELDS[name] in [typing.get_origin(k) or k for k in kinds], name
    assert set(common._MODEL_FIELDS) == set(fields)


@pytest.mark.parametrize('name', FILES)
def test_file_is_locked_and_valid(name, monkeypatch):
    config = load_config(name, monkeypatch)
    assert config.is_locked and config.train.is_locked
    with pytest.raises(AttributeError, match='batch_size'):
        config.train.batch_siz = 3
    config_lib.validate_config(config)


@pytest.mark.parametrize('name', FILES)
def test_file_tells_its_command_line(name):
    doc = ast.get_docstring(ast.parse((ROOT / 'configs' / f'{name}.py').read_text()))
    assert doc, f'configs/{name}.py has no docstring'
    commands = re.findall(r'python -m pdl_jax\.main (.*(?:\\\n.*)*)', doc)
    assert commands, f'the docstring of configs/{name}.py has no `python -m pdl_jax.main` command'
    arguments = shlex.split(commands[0].replace('\\\n', ' '))
    assert f'--config=configs/{name}.py' in arguments
    assert any(a.startswith('--workdir=') for a in arguments)


def test_each_call_makes_a_new_config():
    common.get_config().train.batch_size = 7
    assert common.get_config().train.batch_size != 7


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('model.backbone', 'resnet5'),
        ('model.output_stride', 12),
        ('model.aspp_pooling', 'local'),
        ('model.backbone_padding', 'valid'),
        ('model.dtype', 'float16'),
        ('model.dropout_rate', 1.5),
        ('model.normalization', 'caffe'),
        ('model.preset', 'deeplab2/resnet49'),
        ('model.preset', 'imagenet/resnet50'),
        ('model.resize', 'nearest'),
        ('evaluate.scales', ()),
        ('evaluate.scales', (1.0, 0.0)),
        ('evaluate.oracle', ('centre',)),
        ('evaluate.extra_metrics', ('pq',)),
        ('optimizer.kind', 'lamb'),
        ('optimizer.momentum', 1.5),
        ('augment.crop_height_px', 0),
        ('augment.flip_probability', -0.1),
        ('augment.max_scale', 0.25),
        ('loss.top_k_fraction', 0.0),
        ('loss.top_k_fraction', 1.01),
        ('optimizer.learning_rate', float('nan')),
        ('optimizer.ema_decay', 2.0),
        ('train.batch_size', 0),
        ('augment.resize_min_px', 641),
        ('train.num_steps', -1),
        ('data.path', ''),
    ],
)
def test_values_out_of_range_are_named(field, value):
    config = make_config()
    config_lib.validate_config(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=re.escape(f'config.{field}')) as error:
        config_lib.validate_config(config)
    assert value == '' or repr(value) in str(error.value)


@pytest.mark.parametrize('name', FILES)
def test_json_round_trip(name, monkeypatch):
    config = load_config(name, monkeypatch)
    restored = config_lib.config_from_json(config_lib.config_to_json(config))
    assert restored == config
    assert restored.is_locked
    assert list_fields(restored) == list_fields(config)
    assert isinstance(restored.evaluate.scales, tuple)
    assert config_lib.make_model_options(restored) == config_lib.make_model_options(config)
    restored.evaluate.scales = (0.5, 2.0)
    assert restored != config


def test_what_an_older_version_stored_gets_the_defaults_of_later_fields():
    config = common.get_config()
    config.data.path = 'data'
    stored = config_lib.config_to_json(config)
    del (
        stored['train']['accumulation_steps'],
        stored['train']['remat'],
        stored['mesh']['param_rules'],
    )
    restored = config_lib.config_from_json(stored)
    config_lib.validate_config(restored)
    assert config_lib.config_to_json(restored) == config_lib.config_to_json(config)


@pytest.mark.parametrize(
    ('limit', 'stride', 'max_size', 'expected'),
    [
        (641, 32, (480, 640), (641, 641)),
        (641, 32, (4000, 6000), (641, 641)),
        (0, 32, (1024, 2048), (1025, 2049)),
        (0, 16, (360, 360), (369, 369)),
        (0, 16, (1, 1), (17, 17)),
    ],
)
def test_input_size(limit, stride, max_size, expected):
    config = make_config(augment__resize_max_px=limit, model__output_stride=stride)
    assert config_lib.input_size(config, max_size) == expected


def test_half_pixel_networks_take_multiples_of_the_stride():
    config = make_config(model__preset='detectron2/resnet52_os16')
    assert config_lib.input_size(config, (1024, 2041)) == (1024, 2048)


def test_what_a_backbone_refuses_is_told_with_its_field():
    config = make_config(model__backbone='resnet50', model__stem='gamma')
    with pytest.raises(ValueError, match=r"config.model.backbone \(='resnet50'\): .* not 'gamma'"):
        config_lib.validate_config(config)
    config = make_config(model__backbone='hrnet_w18', model__stem='beta')
    with pytest.raises(
        ValueError, match=r"config.model.stem \(='beta'\) does not apply to .*'hrnet_w18'"
    ):
        config_lib.validate_config(config)


def test_unset_fields_are_those_of_the_preset():
    config = make_config(model__preset='bowenc0221/resnet50_os32', model__dropout_rate=0.25)
    options = config_lib.make_model_options(config)
    assert (options.dropout_rate, options.aspp_pool_layer, options.skip_strides) == (
        0.25,
        'plain',
        (16, 8, 4),
    )
    assert (
        config_lib.make_step_options(config, label_format=None).augment.normalization == 'imagenet'
    )


def test_window_of_the_pooling_grows_with_the_scale_of_the_image():
    config = make_config(augment__crop_height_px=513, augment__crop_width_px=1025)
    assert config_lib.make_model(config, 19).pool_crop == (513, 1025)
    assert config_lib.make_model(config, 19, scale=1.5).pool_crop == (769, 1537)


def test_number_of_classes_must_be_that_of_the_data():
    config = make_config(data__num_classes=134)
    assert config_lib.make_model(config, 134).num_classes == 134
    with pytest.raises(
        ValueError, match=r'config.data.num_classes \(=134\) is not that of the data, 19'
    ):
        config_lib.make_model(config, 19)


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_input_holds_the_resized_image_and_is_aligned(stride):
    rng = random.Random(stride)
    for _ in range(40):
        minimum, limit = rng.choice([(0, 0), (0, 641), (641, 641), (300, 900)])
        max_size = (rng.randint(1, 1500), rng.randint(1, 1500))
        config = make_config(
            augment__resize_min_px=minimum,
            augment__resize_max_px=limit,
            model__output_stride=stride,
        )
        size = config_lib.input_size(config, max_size)
        resized = np.asarray(resize_to_range(np.array(max_size), minimum, limit))
        case = f'{max_size} with {minimum}, {limit}: {resized} in {size}'
        assert (np.array(size) >= resized).all(), case
        assert [(n - 1) % stride for n in size] == [0, 0], case
        # Padding is computed for nothing: at most one stride beyond what may be needed.
        bound = (limit, limit) if limit else np.maximum(resized, max_size)
        assert (np.array(size) <= np.array(bound) + stride).all(), case


def test_common_fields_feed_every_options_class():
    # A field that is renamed on one side only would fail here and not at the start of a run.
    config = make_config()
    options = config_lib.make_step_options(config, label_format=None)
    assert options.augment.crop_size == (1025, 2049)
    assert options.loss.top_k_fraction == config.loss.top_k_fraction
    assert config_lib.make_optimizer_options(config).poly_power == config.optimizer.poly_power
    assert config_lib.postprocess_arguments(config)['stuff_area_limit'] == 2048


@pytest.mark.parametrize(
    ('flag', 'suggestion'),
    [('train.batch_siz=3', 'batch_size'), ('tran.batch_size=3', '"train"')],
)
def test_misspelt_field_is_one_line_on_the_console(flag, suggestion, tmp_path):
    workdir = tmp_path / 'run'
    result = subprocess.run(
        [
            *(sys.executable, '-m', 'pdl_jax.main', '--config=configs/scenes.py'),
            *(f'--workdir={workdir}', f'--config.{flag}'),
        ],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert suggestion in output
    assert 'Traceback' not in output
    assert not workdir.exists()
