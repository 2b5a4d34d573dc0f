"""Mapillary Vistas in its published layouts, versions 1.2 and 2.0."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import images, records
from pdl_jax.data.readers import mapillary
from tests.data.prepare_command import run_prepare

LABELS = [
    {'name': 'animal--bird', 'readable': 'Bird', 'instances': True, 'evaluate': True},
    {'name': 'void--static', 'readable': 'Static', 'instances': False, 'evaluate': False},
    {'name': 'nature--sky', 'readable': 'Sky', 'instances': False, 'evaluate': True},
    {'name': 'void--unlabeled', 'readable': 'Unlabeled', 'instances': False, 'evaluate': False},
]
COLORS = [[165, 42, 42], [111, 111, 0], [70, 130, 180], [0, 0, 0]]
KEYS = ('--jRsD9anHdGxv4ZOCQktA', '_1Gn_xkw7sa_i9GU4mkxxQ')


def write_layout(root, *, version='1.2', has_version_folders=True):
    """Writes the training split; returns i32[H, W] of positions in the list of labels."""
    config = {'labels': [{**v, 'color': c} for v, c in zip(LABELS, COLORS, strict=True)]}
    root.mkdir(parents=True, exist_ok=True)
    name = f'config_v{version}.json' if has_version_folders else 'config.json'
    (root / name).write_text(json.dumps({**config, 'version': 1.1, 'mapping': 'public'}))
    folder = root / 'training' / f'v{version}' if has_version_folders else root / 'training'
    images_dir = root / 'training' / 'images'
    for path in (images_dir, folder / 'labels', folder / 'instances', folder / 'panoptic'):
        path.mkdir(parents=True, exist_ok=True)
    # Category ids count from 1, and void has none.
    content = {
        'images': [],
        'annotations': [],
        'categories': [
            {
                'id': i + 1,
                'name': v['readable'],
                'supercategory': v['name'],
                'isthing': int(v['instances']),
                'color': c,
            }
            for i, (v, c) in enumerate(zip(LABELS, COLORS, strict=True))
            if v['evaluate']
        ],
    }
    labels = np.full((20, 30), 3, np.uint8)
    labels[:8] = 2
    labels[8:10] = 1
    labels[12:14, :9] = labels[16:19, 5:12] = labels[16:18, 20:] = 0
    ids = np.where(labels == 2, 70_000, 0)
    ids[12:14, :9], ids[16:19, 5:12], ids[16:18, 20:] = 900, 300, 7
    for key in KEYS:
        Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(images_dir / f'{key}.jpg')
        palette = Image.fromarray(labels).convert('P')
        palette.putpalette([value for color in COLORS for value in color])
        palette.save(folder / 'labels' / f'{key}.png')
        (folder / 'panoptic' / f'{key}.png').write_bytes(images.encode_ids(ids))
        content['images'].append({'id': key, 'file_name': f'{key}.jpg', 'height': 20, 'width': 30})
        segments = [
            {'id': i, 'category_id': c, 'iscrowd': crowd, 'area': int((ids == i).sum()), 'bbox': []}
            for i, c, crowd in ((900, 1, 0), (300, 1, 0), (7, 1, 1), (70_000, 3, 0))
        ]
        content['annotations'].append(
            {'image_id': key, 'file_name': f'{key}.png', 'segments_info': segments}
        )
    year = {'1.2': '2018', '2.0': '2020'}[version]
    (folder / 'panoptic' / f'panoptic_{year}.json').write_text(json.dumps(content))
    return labels.astype(np.int32)


@pytest.mark.parametrize(
    'version, has_version_folders', [('1.2', False), ('1.2', True), ('2.0', True)]
)
def test_both_tasks_in_every_layout(tmp_path, version, has_version_folders):
    labels = write_layout(tmp_path, version=version, has_version_folders=has_version_folders)
    panoptic = mapillary.read_split(tmp_path, 'train', version=version)
    semantic = mapillary.read_split(tmp_path, 'train', version=version, task='semantic')
    assert panoptic.spec.name == semantic.spec.name == 'mapillary_vistas'
    assert panoptic.spec.class_names == semantic.spec.class_names == ('Bird', 'Sky')
    assert panoptic.spec.label_format.thing_classes == (0,)
    assert semantic.spec.label_format.thing_classes == ()
    assert semantic.spec.categories[1].color == (70, 130, 180)

    expected = np.choose(labels, [0, 255_000, 1000, 255_000])
    record = semantic.load(semantic.items[1])
    np.testing.assert_array_equal(record.panoptic, expected)
    assert [item.image_id for item in semantic.items] == sorted(KEYS)

    # Birds are numbered in the order of the file; the flock is a crowd.
    expected[12:14, :9], expected[16:19, 5:12] = 1, 2
    record = panoptic.load(panoptic.items[1])
    np.testing.assert_array_equal(record.panoptic, expected)
    assert record.file_name == f'{KEYS[1]}.jpg' and record.image_id == KEYS[1]
    assert record.annotation_file_name == f'{KEYS[1]}.png'


def test_command_line(tmp_path):
    write_layout(tmp_path, version='2.0')
    command = ['--format=mapillary_vistas', f'--input={tmp_path}', '--num_processes=0']
    run_prepare([*command, '--version=2.0', '--split=train', f'--out={tmp_path / "out"}'])
    source = records.open_split(tmp_path / 'out', 'train')
    assert (len(source), source.max_segments, source.max_instances) == (2, 4, 2)
    with pytest.raises(FileNotFoundError, match='panoptic_2018.json does not exist'):
        run_prepare([*command, '--split=train', f'--out={tmp_path / "other"}'])


def test_areas_may_be_ignored(tmp_path):
    write_layout(tmp_path)
    path = tmp_path / 'training/v1.2/panoptic/panoptic_2018.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['segments_info'][0]['area'] += 1
    path.write_text(json.dumps(content))
    split = mapillary.read_split(tmp_path, 'train')
    with pytest.raises(ValueError, match='--ignore_area'):
        split.load(split.items[0])
    split = mapillary.read_split(tmp_path, 'train', check_area=False)
    split.load(split.items[0])


@pytest.mark.parametrize(
    'options, message',
    [
        ({'split': 'training'}, "split 'training' does not exist.*train or val"),
        ({'task': 'instance'}, 'panoptic or semantic'),
        ({'version': '1.1'}, "version '1.1' does not exist.*1.2 or 2.0"),
    ],
)
def test_options_that_do_not_exist(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        mapillary.read_split(tmp_path, **{'split': 'train', **options})


@pytest.mark.parametrize(
    'content, message',
    [
        ('{', r'config_v1\.2\.json is not valid JSON'),
        ('[]', "must be an object with a field 'labels'"),
        ('{"labels": [3]}', r"labels\[0\] of .* field 'readable'"),
        ('{"labels": [{"readable": "Sky", "color": [1, 2, 300], "evaluate": true}]}', 'color must'),
        (
            '{"labels": [{"readable": "Sky", "color": [1, 2, 3], "evaluate": 1}]}',
            'evaluate must be bool',
        ),
        ('{"labels": []}', 'at least one category'),
    ],
)
def test_malformed_configurations(tmp_path, content, message):
    write_layout(tmp_path)
    (tmp_path / 'config_v1.2.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        mapillary.read_split(tmp_path, 'train', task='semantic')


def test_files_that_do_not_fit(tmp_path):
    write_layout(tmp_path)
    labels_dir = tmp_path / 'training/v1.2/labels'
    split = mapillary.read_split(tmp_path, 'train', task='semantic')
    path = labels_dir / split.items[0].label_path
    Image.fromarray(np.full((20, 30), 4, np.uint8)).save(path)
    with pytest.raises(ValueError, match='holds value 4 .*config_v1.2.json lists 4 labels'):
        split.load(split.items[0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map'):
        mapillary.read_split(tmp_path, 'train', task='semantic')
    (tmp_path / 'config_v1.2.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'config_v1\.2\.json does not exist: give the'):
        mapillary.read_split(tmp_path, 'train', task='semantic')
