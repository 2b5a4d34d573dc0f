"""Experiments: configurations are complete, valid and documented, and a wrong one is explained."""

import ast
import json
import pathlib
import random
import re
import shlex

import numpy as np
import pytest

from configs import common
from pdl_jax.commands.config_file import load_config
from pdl_jax.data import catalog
from pdl_jax.experiment import RENAMED, Experiment, list_preset_values
from pdl_jax.models.options import FIELD_TYPES, ModelOptions, list_fields
from pdl_jax.prediction.inference import find_input_size
from pdl_jax.preprocess.augment import resize_to_range
from pdl_jax.presets import PRESETS, find_preset, find_system
from pdl_jax.systems import SYSTEMS, find_options_class

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(
    path.stem
    for path in (ROOT / 'configs').glob('*.py')
    if path.stem not in ('__init__', 'classification', 'common', 'deeperlab', 'kmax', 'search')
)
COMMON = str(ROOT / 'configs' / 'common.py')


def list_types(config, prefix=''):
    """Lists the types of the values of all fields by their dotted names."""
    fields = {}
    for key, value in config.items():
        if hasattr(value, 'items'):
            fields |= list_types(value, f'{prefix}{key}.')
        else:
            fields[prefix + key] = type(value)
    return fields


def find_base(config):
    """The file that has all fields of the system of a configuration."""
    system = find_system(find_preset(config.model.preset), config.model.to_dict())
    return str(ROOT / 'configs' / f'{find_options_class(system).base_config}.py')


def make_config(base=COMMON, **fields):
    """Sets some fields of the defaults, by names such as train__batch_size."""
    config = load_config(base)
    config.data.path = 'data/coco'
    with config.ignore_type():
        config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    return config


def make_experiment(**fields):
    return Experiment.from_config(make_config(**fields))


def find_size(experiment, max_size):
    """Finds the network input that holds images of at most `max_size`."""
    system = experiment.make_system(catalog.cityscapes().label_format)
    return find_input_size(system, experiment.augment, max_size)


@pytest.mark.parametrize('name', FILES)
def test_file_has_exactly_the_common_fields(name):
    config = load_config(name)
    fields, defaults = list_types(config), list_types(load_config(find_base(config)))
    # A search adds a section of its own, which tests/search checks.
    fields = {key: kind for key, kind in fields.items() if not key.startswith('search.')}
    assert fields.keys() == defaults.keys()
    # A field that the preset decides is empty until a file sets it.
    different = {
        key for key in fields if fields[key] != defaults[key] and defaults[key] is not type(None)
    }
    assert not different


def test_every_field_of_a_network_can_be_overridden():
    assert set(list_fields(ModelOptions())) == set(FIELD_TYPES)
    words = {bool: 'False', int: '3', float: '0.5', str: 'other', tuple: '(1, 2)'}
    for system in SYSTEMS:
        fields = find_options_class(system).field_types()
        assert {'dtype', 'freeze_backbone_norm'} <= set(fields)
        flags = [f'--config.model.{name}={words[kind]}' for name, kind in fields.items()]
        model = load_config(COMMON, flags).model
        assert {name: type(model[name]) for name in fields} == dict(fields)
    for name, kind in FIELD_TYPES.items():
        assert isinstance(list_fields(ModelOptions())[name], kind | None), name


@pytest.mark.parametrize('name', FILES)
def test_file_is_locked_and_valid(name):
    config = load_config(name)
    assert config.is_locked and config.train.is_locked
    with pytest.raises(AttributeError, match='batch_size'):
        config.train.batch_siz = 3
    Experiment.from_config(config)


@pytest.mark.parametrize('name', FILES)
def test_file_tells_its_command_line(name):
    doc = ast.get_docstring(ast.parse((ROOT / 'configs' / f'{name}.py').read_text()))
    assert doc, f'configs/{name}.py has no docstring'
    commands = re.findall(r'python -m pdl_jax(?:\.main| search) (.*(?:\\\n.*)*)', doc)
    assert commands, f'the docstring of configs/{name}.py has no `python -m pdl_jax.main` command'
    arguments = shlex.split(commands[0].replace('\\\n', ' '))
    assert f'--config=configs/{name}.py' in arguments
    assert any(a.startswith('--workdir=') for a in arguments)


def test_copy_paste_needs_another_image():
    make_experiment(augment__copy_paste_probability=1.0, train__batch_size=2)
    with pytest.raises(ValueError, match=r'copy_paste_probability \(=1.0\) needs .*at least 2'):
        make_experiment(augment__copy_paste_probability=1.0, train__batch_size=1)


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
        ('augment.hue', 0.6),
        ('augment.brightness', -0.1),
        ('augment.max_rotation_degrees', 200.0),
        ('augment.max_noise_deviation', float('nan')),
        ('augment.blur_probability', 1.5),
        ('augment.extra', ('cutout',)),
        ('augment.color_policy', 'autoaugment'),
        ('augment.copy_paste_probability', 1.5),
        ('augment.copy_paste_scale', 0.0),
        ('augment.color_policy_magnitude', 1.5),
        ('loss.extra', ('losses.dice',)),
        ('loss.class_weights', (-1.0,)),
        ('loss.top_k_fraction', 0.0),
        ('loss.top_k_fraction', 1.01),
        ('optimizer.learning_rate', float('nan')),
        ('optimizer.ema_decay', 2.0),
        ('optimizer.warmup_start_factor', 1.5),
        ('optimizer.backbone_learning_rate_factor', -0.1),
        ('optimizer.weight_decay', float('nan')),
        ('train.batch_size', 0),
        ('augment.resize_min_px', 641),
        ('train.num_steps', -1),
        ('data.path', ''),
    ],
)
def test_values_out_of_range_are_named(field, value):
    config = make_config()
    Experiment.from_config(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=re.escape(f'config.{field}')) as error:
        Experiment.from_config(config)
    assert value == '' or repr(value) in str(error.value)


@pytest.mark.parametrize('name', FILES)
def test_round_trip_of_a_file(name):
    config = load_config(name)
    experiment = Experiment.from_config(config)
    values = experiment.to_dict()
    # The list is complete: every field of the defaults that any network of this system has.
    base = load_config(find_base(config))
    defaults = {key for key in list_types(base) if not key.startswith('model.')}
    assert {key for key in list_types(values) if not key.startswith('model.')} == defaults
    assert Experiment.from_dict(values) == experiment
    stored = json.loads(json.dumps(experiment.to_json()))
    restored = Experiment.from_dict(stored)
    assert restored == experiment and restored.to_dict() == values
    assert isinstance(restored.evaluate.scales, tuple)
    stored['evaluate']['scales'] = [0.5, 2.0]
    changed = Experiment.from_dict(stored)
    assert changed.evaluate.scales == (0.5, 2.0) and changed != experiment


@pytest.mark.parametrize('preset', [name for name in PRESETS if PRESETS[name].system])
def test_round_trip_of_a_preset(preset):
    name = find_options_class(PRESETS[preset].system).base_config
    experiment = make_experiment(base=str(ROOT / 'configs' / f'{name}.py'), model__preset=preset)
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    assert Experiment.from_dict(experiment.to_json()) == experiment


def test_values_of_the_preset_are_listed():
    config = make_config(model__preset='bowenc0221/resnet50_os32', model__dropout_rate=0.25)
    values = list_preset_values(config.to_dict(), Experiment.from_config(config))
    assert values['model.skip_strides'] == (16, 8, 4) and values['loss.scope'] == 'batch'
    assert 'model.dropout_rate' not in values and 'loss.center_weight' not in values


@pytest.mark.parametrize(
    ('old', 'new', 'value'),
    [
        ('data.is_unreadable_skipped', 'data.skip_unreadable', True),
        ('model.is_backbone_norm_frozen', 'model.freeze_backbone_norm', True),
        ('model.stride_dialect', 'model.stride_convention', 'torchvision'),
    ],
)
def test_fields_of_earlier_versions_have_their_names_of_today(old, new, value):
    assert RENAMED[old] == new
    stored = make_experiment().to_json()
    section, name = new.split('.')
    del stored[section][name]
    stored[section][old.split('.')[1]] = value
    restored = Experiment.from_dict(stored).to_dict()
    assert restored[section][name] == value and old.split('.')[1] not in restored[section]
    config = load_config(COMMON, ['--config.data.path=x', f'--config.{old}={value}'])
    assert Experiment.from_config(config).to_dict()[section][name] == value


@pytest.mark.parametrize(
    ('field', 'suggestion'),
    [
        ('data.scenes.num_trian', 'num_train'),
        ('data.pathh', 'path'),
        ('model.backbon', 'backbone'),
        ('targets.sigma', 'sigma_px'),
        ('loss.scop', 'scope'),
        ('postprocess.max_centres', 'max_centers'),
        ('augment.min_scal', 'min_scale'),
        ('optimizer.learning_rat', 'learning_rate'),
        ('train.batch_siz', 'batch_size'),
        ('evaluate.scale', 'scales'),
        ('mesh.spase', 'space'),
        ('trian', 'train'),
    ],
)
def test_unknown_fields_are_refused_with_a_suggestion(field, suggestion):
    values = make_experiment().to_json()
    *sections, name = field.split('.')
    place = values
    for section in sections:
        place = place[section]
    place[name] = 1
    with pytest.raises(ValueError, match=rf'config\.{field} is unknown; .*{suggestion}'):
        Experiment.from_dict(values)


def test_section_must_have_fields():
    values = make_experiment().to_json() | {'train': 7}
    with pytest.raises(ValueError, match=r'config\.train \(=7\) must be a section'):
        Experiment.from_dict(values)


def test_what_an_older_version_stored_gets_the_defaults_of_later_fields():
    experiment = make_experiment()
    stored = experiment.to_json()
    del (
        stored['train']['accumulation_steps'],
        stored['train']['remat'],
        stored['mesh']['param_rules'],
    )
    assert Experiment.from_dict(stored) == experiment
    # Fields without a value are the preset's, as in configurations that were stored as written.
    stored = json.loads(json.dumps(make_config().to_dict()))
    assert stored['model']['skip_strides'] is None and stored['loss']['scope'] is None
    assert Experiment.from_dict(stored) == experiment


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
    experiment = make_experiment(augment__resize_max_px=limit, model__output_stride=stride)
    assert find_size(experiment, max_size) == expected


def test_half_pixel_networks_take_multiples_of_the_stride():
    experiment = make_experiment(model__preset='detectron2/resnet52_os16')
    assert find_size(experiment, (1024, 2041)) == (1024, 2048)


def test_what_a_backbone_refuses_is_told_with_its_field():
    config = make_config(model__backbone='resnet50', model__stem='gamma')
    with pytest.raises(ValueError, match=r"config.model.backbone \(='resnet50'\): .* not 'gamma'"):
        Experiment.from_config(config)
    config = make_config(model__backbone='hrnet_w18', model__stem='beta')
    with pytest.raises(
        ValueError, match=r"config.model.stem \(='beta'\) does not apply to .*'hrnet_w18'"
    ):
        Experiment.from_config(config)


def test_unset_fields_are_those_of_the_preset():
    experiment = make_experiment(model__preset='bowenc0221/resnet50_os32', model__dropout_rate=0.25)
    options = experiment.system.model
    assert (options.dropout_rate, options.aspp_pool_layer, options.skip_strides) == (
        0.25,
        'plain',
        (16, 8, 4),
    )
    assert experiment.augment.normalization == 'imagenet'


def test_window_of_the_pooling_grows_with_the_scale_of_the_image():
    experiment = make_experiment(augment__crop_height_px=513, augment__crop_width_px=1025)
    system = experiment.make_system(catalog.cityscapes().label_format)
    assert system.network.pool_crop == (513, 1025)
    assert system.at_scale(1.5).network.pool_crop == (769, 1537)


def test_number_of_classes_must_be_that_of_the_data():
    experiment = make_experiment(data__num_classes=134)
    assert experiment.make_system(catalog.coco().label_format).network.num_classes == 134
    with pytest.raises(
        ValueError, match=r'config.data.num_classes \(=134\) is not that of the data, 19'
    ):
        experiment.make_system(catalog.cityscapes().label_format)


@pytest.mark.parametrize('num_channels', [1, 4])
def test_number_of_channels_reaches_the_network_and_its_normalization(num_channels):
    mean = tuple(map(float, range(num_channels)))
    given = {
        'model__normalization': 'given',
        'model__pixel_mean': mean,
        'model__pixel_deviation': (2.0,) * num_channels,
    }
    experiment = make_experiment(data__num_channels=num_channels, **given)
    assert experiment.system.num_channels == num_channels
    assert experiment.augment.normalization.mean == mean
    assert Experiment.from_dict(experiment.to_json()) == experiment
    with pytest.raises(ValueError, match=r'config\.model\.pixel_mean.*num_channels \(=5\)'):
        make_experiment(
            data__num_channels=5,
            **{**given, 'model__pixel_mean': (1.0, 2.0)} | {'model__pixel_deviation': (1.0, 2.0)},
        )
    with pytest.raises(ValueError, match='needs config.model.pixel_mean'):
        make_experiment(model__normalization='given')
    with pytest.raises(ValueError, match=r'config\.data\.num_channels \(=0\)'):
        make_experiment(data__num_channels=0)


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_input_holds_the_resized_image_and_is_aligned(stride):
    rng = random.Random(stride)
    for _ in range(40):
        minimum, limit = rng.choice([(0, 0), (0, 641), (641, 641), (300, 900)])
        max_size = (rng.randint(1, 1500), rng.randint(1, 1500))
        experiment = make_experiment(
            augment__resize_min_px=minimum,
            augment__resize_max_px=limit,
            model__output_stride=stride,
        )
        size = find_size(experiment, max_size)
        resized = np.asarray(resize_to_range(np.array(max_size), minimum, limit))
        case = f'{max_size} with {minimum}, {limit}: {resized} in {size}'
        assert (np.array(size) >= resized).all(), case
        assert [(n - 1) % stride for n in size] == [0, 0], case
        # Padding is computed for nothing: at most one stride beyond what may be needed.
        bound = (limit, limit) if limit else np.maximum(resized, max_size)
        assert (np.array(size) <= np.array(bound) + stride).all(), case


def test_common_fields_feed_every_options_class():
    # A field that is renamed on one side only would fail here and not at the start of a run.
    config = make_config(loss__top_k_fraction=0.3, optimizer__poly_power=0.8)
    experiment = Experiment.from_config(config)
    assert experiment.augment.crop_size == (1025, 2049)
    assert experiment.system.loss.top_k_fraction == config.loss.top_k_fraction
    assert experiment.optimizer.poly_power == config.optimizer.poly_power
    assert experiment.system.postprocess.stuff_area_limit_px == 2048
