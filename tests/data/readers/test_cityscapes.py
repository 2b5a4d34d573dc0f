"""Cityscapes in its published layout: the labels equal those of the official conversion."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import catalog, images, records
from pdl_jax.data.readers import cityscapes, panoptic_folder
from tests.data.prepare_command import run_prepare

# cityscapesscripts/helpers/labels.py: ids that the benchmark ignores, and ids with instances.
IGNORED = {*range(7), 9, 10, 14, 15, 16, 18, 29, 30}
WITH_INSTANCES = set(range(24, 34))
STEMS = ('aachen_000000_000019', 'aachen_000001_000019', 'ulm_000000_000019')


def make_instance_ids(index: int) -> np.ndarray:
    """Returns i32[H, W] with every label id, and objects whose numbers have gaps."""
    values = [*range(34), *(label * 1000 + n for label in range(24, 34) for n in (0, 3, 4, 17))]
    chosen = np.random.default_rng(index).choice(values, (12, 16))
    chosen.flat[: len(values)] = values
    return chosen.repeat(2, axis=0).astype(np.int32)


def write_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_layout(root, split='train', kind='gtFine'):
    """Writes three images in two cities and returns their instance ids."""
    written = {}
    for index, stem in enumerate(STEMS):
        ids = written[stem] = make_instance_ids(index)
        city = stem.split('_')[0]
        labels = root / kind / split / city / f'{stem}_{kind}'
        write_png(labels.with_name(f'{labels.name}_instanceIds.png'), ids.astype(np.uint16))
        label_ids = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        write_png(labels.with_name(f'{labels.name}_labelIds.png'), label_ids)
        image = np.full((*ids.shape, 3), 10 * index, np.uint8)
        write_png(root / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png', image)
    return written


def convert_officially(root, written, *, is_train_id):
    """Writes the files of csCreatePanopticImgs and returns the arguments of their reader."""
    spec = catalog.cityscapes()
    panoptic_dir = root / 'panoptic'
    content = {'images': [], 'annotations': [], 'categories': []}
    for index, category in enumerate(spec.categories):
        content['categories'].append(
            {
                'id': index if is_train_id else category.id,
                'name': category.name,
                'isthing': int(category.id in WITH_INSTANCES),
                'color': list(category.color),
            }
        )
    train_id = {category.id: index for index, category in enumerate(spec.categories)}
    for stem, ids in written.items():
        kept, segments = np.zeros_like(ids), []
        for value in np.unique(ids).tolist():
            label_id = value if value < 1000 else value // 1000
            if label_id in IGNORED:
                continue
            kept[ids == value] = value
            segments.append(
                {
                    'id': value,
                    'category_id': train_id[label_id] if is_train_id else label_id,
                    'iscrowd': int(value < 1000 and label_id in WITH_INSTANCES),
                    'area': int((ids == value).sum()),
                }
            )
        name = f'{stem}_gtFine_panoptic.png'
        panoptic_dir.mkdir(exist_ok=True)
        (panoptic_dir / name).write_bytes(images.encode_ids(kept))
        height, width = ids.shape
        content['images'].append(
            {
                'id': stem,
                'file_name': f'{stem}_gtFine_leftImg8bit.png',
                'height': height,
                'width': width,
            }
        )
        content['annotations'].append(
            {'image_id': stem, 'file_name': name, 'segments_info': segments}
        )
    (root / 'panoptic.json').write_text(json.dumps(content))
    return root / 'leftImg8bit' / 'train', panoptic_dir, root / 'panoptic.json'


@pytest.mark.parametrize('is_train_id', [False, True])
def test_panoptic_is_the_official_conversion(tmp_path, is_train_id):
    written = write_layout(tmp_path)
    ours = cityscapes.read_split(tmp_path, 'train')
    official = panoptic_folder.read_split(
        *convert_officially(tmp_path, written, is_train_id=is_train_id)
    )
    assert ours.spec == catalog.cityscapes()
    assert ours.spec.categories[11].is_thing and official.spec.name == 'cityscapes'
    assert len(ours.items) == len(official.items) == 3
    for our_item, official_item in zip(ours.items, official.items, strict=True):
        record, expected = ours.load(our_item), official.load(official_item)
        np.testing.assert_array_equal(record.panoptic, expected.panoptic)
        assert record.image == expected.image
        names = (record.image_id, record.file_name, record.annotation_file_name)
        assert names == (expected.image_id, expected.file_name, expected.annotation_file_name)


def test_labels_by_hand(tmp_path):
    written = write_layout(tmp_path)
    ours = cityscapes.read_split(tmp_path, 'train')
    ids, record = written[STEMS[0]], ours.load(ours.items[0])
    # Road, a crowd of cars, the cars 0, 3, 4 and 17 numbered from 1, and what is ignored.
    for value, label in {
        7: 0, 26: 13_000, 26_000: 13_001, 26_003: 13_002, 26_004: 13_003, 26_017: 13_004,
        33_017: 18_004, 0: 255_000, 4: 255_000, 29: 255_000, 30_003: 255_000,
    }.items():  # fmt: skip
        assert set(record.panoptic[ids == value].tolist()) == {label}
    assert record.panoptic.dtype == np.int32
    assert record.image_id == 'aachen_000000_000019'
    assert record.annotation_file_name == 'aachen_000000_000019_gtFine_panoptic.png'


@pytest.mark.parametrize('split, kind', [('val', 'gtFine'), ('train_extra', 'gtCoarse')])
def test_semantic_has_the_same_classes_and_no_things(tmp_path, split, kind):
    written = write_layout(tmp_path, split, kind)
    ours = cityscapes.read_split(tmp_path, split, task='semantic')
    assert ours.spec.class_names == catalog.cityscapes().class_names
    assert ours.spec.label_format.thing_classes == ()
    spec = catalog.cityscapes()
    for item, ids in zip(ours.items, written.values(), strict=True):
        expected = np.full(ids.shape, 255_000)
        for semantic, category in spec.category_of_class.items():
            is_class = (ids == category.id) | (ids // 1000 == category.id)
            expected[is_class] = semantic * 1000
        np.testing.assert_array_equal(ours.load(item).panoptic, expected)


def test_real_sample(shared_dir, tmp_path):
    # A photograph whose segment ids are those of *_instanceIds.png.
    folder = shared_dir / 'data/deeplab2_testdata/data/testdata'
    name = 'gtFine/cityscapes_panoptic_dummy_trainId'
    stem = 'dummy_000000_000000'
    png = folder / name / f'{stem}_gtFine_panoptic.png'
    ids = images.decode_ids(png.read_bytes(), name=png.name)
    write_png(tmp_path / f'gtFine/val/dummy/{stem}_gtFine_instanceIds.png', ids.astype(np.uint16))
    image = tmp_path / f'leftImg8bit/val/dummy/{stem}_leftImg8bit.png'
    image.parent.mkdir(parents=True)
    image.write_bytes((folder / f'leftImg8bit/{stem}_leftImg8bit.png').read_bytes())
    ours = cityscapes.read_split(tmp_path, 'val')
    panoptic = ours.load(ours.items[0]).panoptic

    annotation = json.loads((folder / f'{name}.json').read_text())['annotations'][0]
    expected, areas = np.full(ids.shape, 255_000), {}
    for segment in sorted(annotation['segments_info'], key=lambda s: s['id']):
        semantic = segment['category_id']
        instance = 0
        if semantic >= 11 and not segment['iscrowd']:
            instance = areas[semantic] = areas.get(semantic, 0) + 1
        expected[ids == segment['id']] = semantic * 1000 + instance
    np.testing.assert_array_equal(panoptic, expected)
    assert areas == {13: 5} and (panoptic == 13_000).sum() == 6178
    target = images.decode_index_map(
        (folder / 'targets/eval_semantic_target.png').read_bytes(), name='target'
    )
    np.testing.assert_array_equal(panoptic // 1000, target)


def test_command_line(tmp_path):
    write_layout(tmp_path)
    command = ['--format=cityscapes', f'--input={tmp_path}', '--num_processes=0']
    run_prepare([*command, '--split=train', f'--out={tmp_path / "out"}'])
    source = records.open_split(tmp_path / 'out', 'train')
    assert source.max_size == (24, 16) and len(source) == 3
    # 19 classes; of the eight things a crowd and four objects each.
    assert (source.max_segments, source.max_instances) == (11 + 8 * 5, 8 * 4)
    assert source.info(2)['image_id'] == STEMS[2]
    # The other task is another data set, which needs another directory.
    with pytest.raises(ValueError, match='prepared from other annotations'):
        run_prepare([*command, '--task=semantic', f'--out={tmp_path / "out"}'])


@pytest.mark.parametrize(
    'options, message',
    [
        (('test',), "split 'test' of Cityscapes has no labels"),
        (('validation',), "split 'validation' does not exist.*train or val or train_extra"),
        (('train', 'instance'), "task 'instance' does not exist.*panoptic or semantic"),
        (('train_extra', 'panoptic'), '--task=semantic'),
    ],
)
def test_splits_and_tasks_that_do_not_exist(tmp_path, options, message):
    split, task = (*options, 'panoptic')[:2]
    with pytest.raises(ValueError, match=message):
        cityscapes.read_split(tmp_path, split, task=task)


@pytest.mark.parametrize(
    'value, message',
    [
        (34, r'ulm_0.*_instanceIds\.png holds value 34 \(first at y=3, x=2'),
        (999, 'holds value 999'),
        (34_000, 'holds value 34000'),
    ],
)
def test_values_that_are_no_label(tmp_path, value, message):
    ids = write_layout(tmp_path)[STEMS[2]].astype(np.uint16)
    ids[3, 2] = value
    write_png(tmp_path / 'gtFine/train/ulm' / f'{STEMS[2]}_gtFine_instanceIds.png', ids)
    ours = cityscapes.read_split(tmp_path, 'train')
    with pytest.raises(ValueError, match=message):
        ours.load(ours.items[2])


def test_files_that_do_not_fit(tmp_path):
    write_layout(tmp_path)
    ours = cityscapes.read_split(tmp_path, 'train')
    path = tmp_path / 'gtFine/train/ulm' / f'{STEMS[2]}_gtFine_instanceIds.png'
    write_png(path, np.zeros((24, 15), np.uint16))
    with pytest.raises(
        ValueError, match=r'_leftImg8bit\.png has 24x16 .*_instanceIds\.png has 24x15'
    ):
        ours.load(ours.items[2])
    write_png(path, np.zeros((24, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"ulm/ulm_.*must be a PNG with.*got mode 'RGB'"):
        ours.load(ours.items[2])
    path.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 3 names lack a label map.*ulm_000000_000019'):
        cityscapes.read_split(tmp_path, 'train')
    with pytest.raises(FileNotFoundError, match='leftImg8bit/val does not exist: unpack'):
        cityscapes.read_split(tmp_path, 'val')
    with pytest.raises(FileNotFoundError, match=r'holds no file \*_gtFine_labelIds\.png'):
        for labels in (tmp_path / 'gtFine').rglob('*_labelIds.png'):
            labels.unlink()
        cityscapes.read_split(tmp_path, 'train', task='semantic')


def test_more_instances_than_the_divisor_holds(tmp_path):
    write_layout(tmp_path)
    ids = np.full((24, 48), 7, np.uint16)
    ids.flat[:1000] = 26_000 + np.arange(1000)
    path = tmp_path / 'gtFine/train/ulm' / f'{STEMS[2]}_gtFine_instanceIds.png'
    write_png(path, ids)
    ours = cityscapes.read_split(tmp_path, 'train')
    write_png(
        tmp_path / 'leftImg8bit/train/ulm' / f'{STEMS[2]}_leftImg8bit.png',
        np.zeros((24, 48, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="more than 999 instances of 'car'"):
        ours.load(ours.items[2])


def test_fingerprint_depends_on_labels_and_names_but_not_on_the_place(tmp_path):
    write_layout(tmp_path / 'a')
    write_layout(tmp_path / 'b')
    first = cityscapes.read_split(tmp_path / 'a', 'train').fingerprint
    assert cityscapes.read_split(tmp_path / 'b', 'train').fingerprint == first
    path = tmp_path / 'b/gtFine/train/ulm' / f'{STEMS[2]}_gtFine_instanceIds.png'
    write_png(path, np.full((24, 16), 7, np.uint16))
    assert cityscapes.read_split(tmp_path / 'b', 'train').fingerprint != first
