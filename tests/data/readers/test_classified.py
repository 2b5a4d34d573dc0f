"""Classified images: folders of classes, ImageNet as it is published, records of TFDS."""

import io
import json
import pathlib
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.prepare import prepare_split
from pdl_jax.data.readers import image_folder, imagenet, tfds_images
from pdl_jax.data.recognition import recognize

SYNSETS = ('n01440764', 'n01443537', 'n01484850')


def write_image(path, size=(6, 8), seed=0, mode='RGB', **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path, **save)
    return values


def read_labels(split):
    loaded = [split.load(item) for item in split.items]
    return {x.file_name: int(x.panoptic.max()) // split.spec.label_divisor for x in loaded}


@pytest.fixture
def folders(tmp_path):
    for i, name in enumerate(('cat', 'ant', 'bee')):
        write_image(tmp_path / 'train' / name / f'{i}.png', seed=i)
        write_image(tmp_path / 'train' / name / f'{i}b.jpg', seed=i)
        write_image(tmp_path / 'val' / name / f'v{i}.png', seed=i)
    return tmp_path


def test_folders_are_classes_in_the_order_of_their_names(folders):
    split = image_folder.read_split(folders, 'train')
    assert split.spec.class_names == ('ant', 'bee', 'cat')
    assert split.spec.label_format.thing_classes == ()
    assert [item.semantic for item in split.items] == [0, 0, 1, 1, 2, 2]
    assert read_labels(image_folder.read_split(folders, 'val')) == {
        'v1.png': 0,
        'v2.png': 1,
        'v0.png': 2,
    }
    assert pickle.loads(pickle.dumps(split)).items == split.items


def test_a_list_gives_classes_and_their_order(folders, tmp_path):
    (tmp_path / 'classes.txt').write_text('cat\nbee\nant\n')
    split = image_folder.read_split(folders, 'val', classes_path=tmp_path / 'classes.txt')
    assert split.spec.class_names == ('cat', 'bee', 'ant')
    assert read_labels(split) == {'v1.png': 2, 'v2.png': 1, 'v0.png': 0}
    (tmp_path / 'classes.txt').write_text('cat\nbee\n')
    with pytest.raises(ValueError, match='ant/v1.png lies in no folder of a class'):
        image_folder.read_split(folders, 'val', classes_path=tmp_path / 'classes.txt')


def test_folders_are_recognised(folders):
    layouts = {layout.split: layout for layout in recognize(folders)}
    assert set(layouts) == {'train', 'val'}
    assert {layout.format for layout in layouts.values()} == {'image_folder'}


def test_prepared_records_hold_constant_labels(folders, tmp_path):
    split = image_folder.read_split(folders, 'val')
    prepare_split(split, out_dir=tmp_path / 'out', split='val', num_processes=0)
    source = records.open_split(tmp_path / 'out', 'val')
    image, panoptic = source.decode(2)
    assert image.shape == (6, 8, 3) and np.unique(panoptic).tolist() == [2000]
    assert len(source[2]['panoptic']) < 200


def test_large_images_are_shrunk_and_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / 'a' / 'large.jpg', (300, 600), exif=exif)
    write_image(tmp_path / 'b' / 'cmyk.jpg', (60, 50), mode='CMYK')
    split = image_folder.read_split(tmp_path, max_side_px=200)
    shapes = {r.file_name: r.panoptic.shape for r in map(split.load, split.items)}
    assert shapes == {'large.jpg': (200, 100), 'cmyk.jpg': (60, 50)}
    prepare_split(split, out_dir=tmp_path / 'out', num_processes=0)
    source = records.open_split(tmp_path / 'out', 'train')
    assert source.decode(0)[0].shape == (200, 100, 3)
    whole = image_folder.read_split(tmp_path, max_side_px=0)
    assert whole.load(whole.items[0]).panoptic.shape == (600, 300)
    with pytest.raises(ValueError, match=r'max_side \(=-1\)'):
        image_folder.read_split(tmp_path, max_side_px=-1)


def test_a_damaged_image_is_named(tmp_path):
    write_image(tmp_path / 'a' / 'good.png')
    (tmp_path / 'a' / 'bad.png').write_bytes(b'no image')
    split = image_folder.read_split(tmp_path)
    with pytest.raises(ValueError, match='a/bad.png'):
        split.load(split.items[0])
    with pytest.raises(FileNotFoundError, match='holds no folder'):
        image_folder.read_split(tmp_path / 'a')


@pytest.fixture
def ilsvrc(tmp_path):
    folder = tmp_path / 'ILSVRC' / 'Data' / 'CLS-LOC'
    for i, synset in enumerate(SYNSETS):
        write_image(folder / 'train' / synset / f'{synset}_{i}.JPEG', seed=i)
        write_image(folder / 'val' / f'ILSVRC2012_val_0000000{i + 1}.JPEG', seed=i)
    return tmp_path


SOLUTIONS = {
    'LOC_val_solution.csv': 'ImageId,PredictionString\n'
    'ILSVRC2012_val_00000001,n01484850 1 1 4 5 n01484850 2 2 3 3\n'
    'ILSVRC2012_val_00000002,n01440764 1 1 4 5\nILSVRC2012_val_00000003,n01443537 1 1 4 5\n',
    'imagenet_2012_validation_synset_labels.txt': 'n01484850\nn01440764\nn01443537\n',
    'ILSVRC2012_validation_ground_truth.txt': '30\n10\n20\n',
}


@pytest.mark.parametrize('name', SOLUTIONS)
def test_imagenet_is_read_as_it_is_published(ilsvrc, name):
    (ilsvrc / name).write_text(SOLUTIONS[name])
    (ilsvrc / 'map_clsloc.txt').write_text(
        'n01440764 10 tench\nn01443537 20 goldfish\nn01484850 30 great_white_shark\n'
    )
    (ilsvrc / 'LOC_synset_mapping.txt').write_text(
        'n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n'
        'n01484850 great white shark, white shark\n'
    )
    train, val = (imagenet.read_split(ilsvrc, split) for split in ('train', 'val'))
    assert train.spec == val.spec
    assert train.spec.class_names == ('tench', 'goldfish', 'great white shark')
    assert [item.semantic for item in train.items] == [0, 1, 2]
    assert [item.semantic for item in val.items] == [2, 0, 1]


def test_imagenet_without_names_and_with_folders_in_val(tmp_path):
    for split in ('train', 'val'):
        for synset in SYNSETS:
            write_image(tmp_path / split / synset / f'{split}_{synset}.JPEG')
    val = imagenet.read_split(tmp_path, 'val')
    assert val.spec.class_names == SYNSETS
    assert [item.semantic for item in val.items] == [0, 1, 2]


def test_what_is_missing_of_imagenet_is_named(ilsvrc):
    with pytest.raises(FileNotFoundError, match='put one of them beside val'):
        imagenet.read_split(ilsvrc, 'val')
    (ilsvrc / 'imagenet_2012_validation_synset_labels.txt').write_text('n01440764\n')
    with pytest.raises(ValueError, match='1 lines for 3 images'):
        imagenet.read_split(ilsvrc, 'val')
    with pytest.raises(ValueError, match="split 'test' does not exist"):
        imagenet.read_split(ilsvrc, 'test')


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Six images of 4x5 pixels, with the features of CIFAR-10."""

    VERSION = tfds.core.Version('1.0.0')
    labels = (0, 2, 1, 1, 0, 2)

    def _info(self):
        features = {
            'id': tfds.features.Text(),
            'image': tfds.features.Image(shape=(4, 5, 3)),
            'label': tfds.features.ClassLabel(names=['ant', 'bee', 'cat']),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        for i, label in enumerate(self.labels):
            stream = io.BytesIO()
            Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(stream, 'PNG')
            stream.seek(0)
            yield i, {'id': str(i), 'image': stream, 'label': label}


@pytest.fixture(scope='module')
def tiny_tfds(tmp_path_factory):
    builder = _Tiny(data_dir=tmp_path_factory.mktemp('tfds'), file_format='array_record')
    builder.download_and_prepare()
    return builder.data_dir


def test_records_of_tfds_are_read_without_it(tiny_tfds):
    split = tfds_images.read_split(tiny_tfds, 'train')
    assert split.spec.class_names == ('ant', 'bee', 'cat')
    assert tuple(item.semantic for item in split.items) == _Tiny.labels
    copy = pickle.loads(pickle.dumps(split))
    record = copy.load(copy.items[3])
    assert np.asarray(Image.open(io.BytesIO(record.image)))[0, 0, 0] == 3
    assert np.unique(record.panoptic).tolist() == [1000]


@pytest.mark.parametrize(
    ('file', 'change', 'message'),
    [
        ('dataset_info.json', {'fileFormat': 'tfrecord'}, '--file_format=array_record'),
        ('dataset_info.json', {'splits': []}, "has no split 'train'"),
        ('features.json', {'featuresDict': {'features': {}}}, "has no feature 'image'"),
    ],
)
def test_other_data_sets_of_tfds_are_refused(tiny_tfds, tmp_path, file, change, message):
    for path in pathlib.Path(tiny_tfds).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=message):
        tfds_images.read_split(tmp_path, 'train')
