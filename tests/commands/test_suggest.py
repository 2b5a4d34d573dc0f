"""The command that writes a configuration for own data."""

import dataclasses

import pytest

from pdl_jax.commands import command_line
from pdl_jax.commands.config_file import load_config
from pdl_jax.commands.suggest import format_config
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import open_split
from pdl_jax.data.suggestion import Setting
from pdl_jax.experiment import Experiment
from tests.data.tiny_folder import write_tiny_folder


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('own')
    paths = write_tiny_folder(folder)
    prepare_panoptic_folder(**paths, out_dir=folder / 'data', num_processes=0)
    return folder / 'data'


def test_the_file_is_a_configuration_of_the_data(dataset, tmp_path, capsys):
    out = tmp_path / 'own.py'
    command_line.main(['suggest', str(dataset), f'--out={out}'])
    experiment = Experiment.from_config(load_config(str(out)))
    assert experiment.data.path == str(dataset) and experiment.data.num_classes == 3
    assert experiment.augment.crop_size == (33, 33)
    assert f'pdl_jax train --config={out}' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line.main(['suggest', str(dataset), f'--out={out}'])
    assert 'exists: choose another file, or --overwrite' in capsys.readouterr().err


def test_names_of_classes_are_no_code(dataset, tmp_path):
    source = open_split(dataset, 'train')
    hostile = '\\"""\nraise SystemExit(3)\n"""'
    first, *others = source.spec.categories
    categories = (dataclasses.replace(first, name=hostile), *others)
    source.spec = dataclasses.replace(source.spec, categories=categories)
    out = tmp_path / 'hostile.py'
    setting = Setting('train.batch_size', 4, f'{hostile!r} is rare')
    out.write_text(format_config(str(dataset), source, [setting]))
    assert load_config(str(out)).train.batch_size == 4
