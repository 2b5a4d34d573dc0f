"""Inputs after public bug reports of people who bring their own data."""

import numpy as np
import pytest

from pdl_jax.data import records
from tests.data.prepare_command import run_prepare


@pytest.fixture
def prepare(shared_dir, tmp_path):
    """Prepares a case and opens its split; {} in flags is the folder of the case."""

    def run(case, flags):
        folder = shared_dir / 'cases' / 'public' / case
        if not folder.is_dir():
            pytest.skip(f'{folder} is missing')
        words = flags.replace('{}', str(folder)).split()
        run_prepare([*words, f'--out={tmp_path}', '--num_processes=0', '--overwrite'])
        return records.open_split(tmp_path, 'train')

    return run


def list_classes(source):
    return source.spec.class_names, source.spec.label_format.thing_classes


def test_coco_instances_of_roboflow(prepare, capsys):
    case, files = '08_coco_instance_json', '--images={}/images --json={}/instances.json'
    source = prepare(case, f'--format=coco_instances {files}')
    assert list_classes(source) == (('ball', 'background'), (0,))
    assert (source.decode(0)[1] == 1).sum() == 750
    printed = capsys.readouterr().out
    assert "is the parent of all others and has no object: left out (first: 'objects'" in printed
    with pytest.raises(ValueError, match='read it with --format=coco_instances'):
        prepare(case, f'--format=coco_panoptic --panoptic={{}}/images {files}')


def test_maps_of_object_numbers(prepare):
    source = prepare(
        '40_instance_maps',
        '--format=instance_masks --images={}/images --labels={}/labels --class=cell',
    )
    assert list_classes(source) == (('cell', 'background'), (0,))
    assert source.max_instances > 1


def test_labelme_folder(prepare):
    source = prepare(
        '42b_labelme_json', '--format=labelme --input={}/data --classes={}/classes.txt'
    )
    assert list_classes(source) == (('background', 'ball'), (1,))
    assert source.max_instances == 1


@pytest.mark.parametrize('format_name', ['voc_pairs', 'label_maps'])
def test_folder_of_labelme2voc(prepare, format_name):
    flags = '--input={}'
    if format_name == 'label_maps':
        flags = (
            '--images={}/JPEGImages --labels={}/SegmentationClassPNG --classes={}/class_names.txt'
        )
    source = prepare('42_labelme2voc_folder', f'--format={format_name} {flags}')
    assert list_classes(source) == (('_background_', 'ball'), ())
    assert len(source) == 2 and source.max_segments == 2


@pytest.mark.parametrize(
    'case, flags',
    [
        ('32_mask_rgb_colours', '--format=label_maps --classes={}/classes.json'),
        ('33_mask_1bit', '--format=label_maps --classes={}/classes.txt'),
        ('33_mask_1bit', '--format=binary_masks --class=lesion'),
        ('30_binary_mask_0_255', '--format=binary_masks --class=lesion'),
    ],
)
def test_masks_in_colors_and_of_two_values(prepare, case, flags):
    source = prepare(case, f'{flags} --images={{}}/images --labels={{}}/labels')
    assert list_classes(source) == (('background', 'lesion'), ())
    for i in range(len(source)):
        assert set(np.unique(source.decode(i)[1])) == {0, 1000}


def test_masks_of_0_and_255_are_told(prepare, capsys):
    prepare(
        '30_binary_mask_0_255',
        '--format=label_maps --images={}/images --labels={}/labels --classes={}/classes.txt',
    )
    assert "classes have no pixel ('lesion')" in capsys.readouterr().out


def test_panoptic_cases_of_own_data(prepare):
    flags = (
        '--format=coco_panoptic --images={}/images --panoptic={}/panoptic --json={}/panoptic.json'
    )
    assert len(prepare('01_datumaro_nested_names', flags)) == 2
    many = prepare('19_1200_instances', flags)
    assert many.max_instances == 1200 and many.spec.label_divisor > 1200
    single = prepare('24_one_thing_class_only', f'{flags} --background=background')
    assert len(single.spec.class_names) == 2 and len(single.spec.label_format.thing_classes) == 1
    assert len(prepare('21_images_without_segments', flags)) == 2
