"""The flags of `pdl_jax prepare`: which ones a format takes, the help, a quick start."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from pdl_jax.commands import prepare
from pdl_jax.data import records
from pdl_jax.data.dataset_formats import FORMATS
from pdl_jax.data.prepare import get_reader
from tests.data import tiny_folder
from tests.data.prepare_command import run_prepare

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_flags_reach_the_reader_and_the_writer(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in')
    json_path = folder['json_path']
    json_path.write_text(json_path.read_text().replace('"area": 320', '"area": 321'))
    arguments = [
        '--format=coco_panoptic', f'--images={folder["images_dir"]}',
        f'--panoptic={folder["panoptic_dir"]}', f'--json={json_path}',
        f'--out={tmp_path / "out"}', '--split=val', '--num_processes=0', '--num_shards=3',
    ]  # fmt: skip
    with pytest.raises(ValueError, match='the JSON states area 321.*--ignore_area'):
        run_prepare(arguments)
    run_prepare([*arguments, '--ignore_area'])
    assert len(records.open_split(tmp_path / 'out', 'val')) == 6
    assert len(list((tmp_path / 'out' / 'val').glob('*array_record*'))) == 3
    with pytest.raises(ValueError, match='pass --overwrite'):
        run_prepare([*arguments, '--spec=own', '--ignore_area', f'--json={edit_name(json_path)}'])
    run_prepare([*arguments, '--ignore_area', f'--json={json_path}', '--overwrite'])
    assert records.open_split(tmp_path / 'out', 'val').spec.class_names[0] == 'hound'


def edit_name(json_path: pathlib.Path) -> pathlib.Path:
    json_path.write_text(json_path.read_text().replace('"dog"', '"hound"'))
    return json_path


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--format=cityscapes', '--format=cityscapes needs --input'),
        ('--format=label_maps --images=a', '--format=label_maps needs --labels --classes'),
        ('--format=coco_panoptic --images=a --json=b', '--format=coco_panoptic needs --panoptic'),
        (
            '--format=cityscapes --input=a --json=b --ignore_area',
            '--json --ignore_area does not belong to --format=cityscapes, which takes --input '
            '--task',
        ),
        ('--format=cityscapes --input=a --void_id=0', '--void_id does not belong'),
    ],
)
def test_flags_that_do_not_fit_the_format(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_prepare([*flags.split(), f'--out={tmp_path / "out"}'])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--format=label_maps --images=a --labels=b --classes=c --void_id=x', 'invalid int'),
        ('--format=coco --input=a', "invalid choice: 'coco'"),
    ],
)
def test_values_that_no_format_takes(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        run_prepare([*flags.split(), f'--out={tmp_path / "out"}'])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_every_format():
    assert prepare.__doc__ is not None
    formats = re.findall(r'^    ([a-z0-9_]+)  +--', prepare.__doc__, re.MULTILINE)
    assert formats == list(FORMATS)
    for name in formats:
        assert callable(get_reader(name))
    for name in re.findall(r'--format=(\w+)', prepare.EXAMPLES):
        assert name in FORMATS


def test_help_needs_no_library():
    code = (
        'import argparse, sys\n'
        'from pdl_jax.commands import prepare\n'
        'prepare.add_flags(argparse.ArgumentParser())\n'
        'print({"numpy", "jax", "etils", "tensorflow_datasets"} & set(sys.modules))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == 'set()'


def test_void_pixels_become_a_class_of_any_format(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in')
    arguments = [
        '--format=coco_panoptic', f'--images={folder["images_dir"]}',
        f'--panoptic={folder["panoptic_dir"]}', f'--json={folder["json_path"]}',
        f'--out={tmp_path / "out"}', '--num_processes=0', '--val_fraction=0.4',
    ]  # fmt: skip
    run_prepare([*arguments, '--background=rest'])
    splits = [records.open_split(tmp_path / 'out', split) for split in ('train', 'val')]
    assert sum(map(len, splits)) == 6
    for source in splits:
        assert source.spec.class_names[-1] == 'rest'
        assert all((source.decode(i)[1] != source.spec.label_format.void_label).all()
                   for i in range(len(source)))  # fmt: skip
    with pytest.raises(ValueError, match='--overwrite'):
        run_prepare([*arguments, '--background=void'])


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--format=cityscapes --input=a --val_fraction=0.2', 'cityscapes, which is published with'),
        ('--format=yolo --input=a --val_fraction=0.2 --split=val', 'leave --split=val out'),
        ('--format=labelme --input=a --json=b', '--json does not belong to --format=labelme'),
        ('--format=coco_instances --images=a', '--format=coco_instances needs --json'),
        ('--format=instance_masks --images=a --labels=b --stuff=c', '--stuff does not belong'),
    ],
)
def test_flags_of_own_data(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_prepare([*flags.split(), f'--out={tmp_path / "out"}'])
