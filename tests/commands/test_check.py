"""The commands check and prepare on a folder whose layout is recognised."""

import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands import command_line
from pdl_jax.data.records import open_split
from tests.data import own_formats
from tests.data.own_formats import Example


@pytest.fixture
def folder(tmp_path):
    """Ten images with LabelMe files."""
    folder = tmp_path / 'own'
    (folder / 'images').mkdir(parents=True)
    examples = []
    for i in range(10):
        objects = np.zeros((30, 40), np.int32)
        objects[3 : 10 + i, 4:12] = 1
        path = folder / 'images' / f'cell{i}.png'
        Image.fromarray((objects[..., None] * [40, 60, 80]).astype(np.uint8)).save(path)
        examples.append(Example(path, objects))
    own_formats.write_labelme(folder, examples)
    return folder


def test_a_good_folder_is_described_and_drawn(folder, tmp_path, capsys):
    command_line.main(['check', str(folder), f'--sheet={tmp_path / "sheet.png"}'])
    out = capsys.readouterr().out
    assert 'labelme' in out and 'nucleus' in out and 'no fault' in out
    sheet = np.asarray(Image.open(tmp_path / 'sheet.png'))
    assert sheet.shape[1] > 4 * 2 * 300 and sheet.std() > 10


def test_all_faults_are_listed_at_once(folder, tmp_path, capsys):
    for name in ('cell2.png', 'cell7.png'):
        path = folder / 'images' / name
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SystemExit) as error:
        command_line.main(['check', str(folder), '--sheet=none'])
    assert error.value.code == 1
    out, err = capsys.readouterr()
    faults = [line for line in out.splitlines() if line.startswith('fault: ')]
    assert len(faults) == 2 and 'cell2.png' in faults[0] and 'cell7.png' in faults[1]
    assert '2 images have faults' in err


def test_prepare_divides_what_it_finds_and_check_reads_the_records(folder, tmp_path, capsys):
    out = tmp_path / 'data'
    command_line.main(['prepare', str(folder), f'--out={out}', '--num_processes=0'])
    splits = [open_split(out, name) for name in ('train', 'val')]
    assert len(splits[0]) > len(splits[1]) > 0 and sum(map(len, splits)) == 10
    assert {split.spec.class_names for split in splits} == {('nucleus', 'background')}
    capsys.readouterr()
    command_line.main(['check', str(out), '--sheet=none'])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if 'prepared (records)' in line] == [
        'train: prepared (records)',
        'val: prepared (records)',
    ]


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'give either PATH'),
        (['{folder}', '--format=labelme'], 'give either PATH'),
        (['{folder}', '--ignore_area'], '--ignore_area does not belong to --format=labelme'),
        (['{folder}', '--split=test', '--val_fraction=0.2'], '--val_fraction writes the splits'),
    ],
)
def test_contradicting_flags_are_refused(flags, message, folder, tmp_path, capsys):
    words = [flag.format(folder=folder) for flag in flags]
    with pytest.raises(SystemExit) as error:
        command_line.main(['prepare', *words, f'--out={tmp_path / "data"}'])
    assert error.value.code == 2 and message in capsys.readouterr().err
