"""Preparing images that are not 8-bit RGB: scaled, turned, of other channels; others unchanged."""

import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.data import images, prepare, records
from pdl_jax.prediction.image_files import read_image
from tests.data import tiny_folder

EXIF_ROTATED = 6  # a quarter to the right


def write_folder(root, arrays, suffix, write):
    """Writes a tiny folder whose images are `arrays`, by `write(path, array)`."""
    folder = tiny_folder.write_tiny_folder(root, len(arrays))
    content = json.loads(folder['json_path'].read_text())
    for index, (entry, array) in enumerate(zip(content['images'], arrays, strict=True)):
        (folder['images_dir'] / entry['file_name']).unlink()
        entry['file_name'] = f'{index:06d}{suffix}'
        write(folder['images_dir'] / entry['file_name'], array)
    folder['json_path'].write_text(json.dumps(content))
    return folder


def make_values(num_images, channels, high=4096, dtype=np.uint16):
    """Random values for the sizes of the tiny folder."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, high, (*tiny_folder.SIZES[i % 6], *channels)).astype(dtype)
        for i in range(num_images)
    ]


def save_png(path, array):
    Image.fromarray(array).save(path)


def prepare_folder(folder, out, **options):
    prepare.prepare_panoptic_folder(**folder, out_dir=out, num_processes=0, **options)
    return records.open_split(out, options.get('split', 'train'))


def test_the_range_of_a_data_set_is_measured_stored_and_used_by_its_other_splits(tmp_path, capsys):
    arrays = make_values(6, (), high=4096)
    folder = write_folder(tmp_path / 'in', arrays, '.png', save_png)
    source = prepare_folder(folder, tmp_path / 'out')
    ((low, high),) = set(source.pixels.value_range)
    assert 0 <= low < 20 and 4070 < high <= 4095
    assert '6 images have more than 8 bits per channel: values' in capsys.readouterr().out
    for index, array in enumerate(arrays):
        image, _ = source.decode(index)
        expected = np.rint((array - low) / (high - low) * 255).clip(0, 255)
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))
        # Prediction makes the same pixels from the file.
        path = str(folder['images_dir'] / f'{index:06d}.png')
        np.testing.assert_array_equal(read_image(path, source.pixels), image)
    # Darker images of the same data set: as dark as they are.
    dark = [array // 4 for array in arrays]
    folder = write_folder(tmp_path / 'val', dark, '.png', save_png)
    other = prepare_folder(folder, tmp_path / 'out', split='val')
    assert other.pixels == source.pixels and other.decode(0)[0].max() < 70
    assert "scaled as in split 'train'" in capsys.readouterr().out


def test_ranges_are_given_or_those_of_each_image(tmp_path):
    arrays = [array // (1 + 3 * i) for i, array in enumerate(make_values(3, ()))]
    folder = write_folder(tmp_path / 'in', arrays, '.png', save_png)
    each = prepare_folder(folder, tmp_path / 'a', value_range='image')
    assert each.pixels.value_range is None
    assert all(each.decode(i)[0].max() == 255 for i in range(3))
    given = prepare_folder(folder, tmp_path / 'b', value_range='0,65535')
    assert given.pixels.value_range == ((0.0, 65535.0),)
    np.testing.assert_array_equal(given.decode(0)[0][..., 0], np.rint(arrays[0] / 257))
    assert len({each.fingerprint, given.fingerprint}) == 2
    with pytest.raises(ValueError, match='--value_range'):
        prepare_folder(folder, tmp_path / 'a')


def test_a_rare_image_of_16_bits_among_others_is_found(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', 6)
    plain = prepare_folder(folder, tmp_path / 'plain')
    assert plain.pixels.value_range is None
    deep = make_values(6, ())[4]
    save_png(folder['images_dir'] / '000004.png', deep)
    source = prepare_folder(folder, tmp_path / 'out')
    assert source.decode(4)[0].max() == 255 and source.pixels.value_range is not None
    for index in (0, 1, 2, 3, 5):
        # Files of 8 bits keep their bytes.
        assert source[index]['image'] == plain[index]['image']
        path = folder['images_dir'] / f'{index:06d}.png'
        assert source[index]['image'] == path.read_bytes()


@pytest.mark.parametrize('num_channels', [1, 2, 4, 5])
def test_channels_of_tiff_files_are_records(num_channels, tmp_path):
    # Channels of different brightness, which a common range would blacken.
    scales = 10 ** np.arange(num_channels) % 997 + 1
    arrays = [
        (array % (30 * scales)).astype(np.uint16)
        for array in make_values(3, (num_channels,), 60000)
    ]

    def save(path, array):
        first = np.moveaxis(array, -1, 0)
        tifffile.imwrite(path, first, photometric='minisblack')

    folder = write_folder(tmp_path / 'in', arrays, '.tif', save)
    source = prepare_folder(folder, tmp_path / 'out', num_channels=num_channels)
    low, high = np.array(source.pixels.value_range).T
    assert source.pixels.num_channels == len(low) == num_channels
    for index, array in enumerate(arrays):
        image, panoptic = source.decode(index)
        assert image.shape == (*panoptic.shape, num_channels)
        expected = np.rint((array - low) / (high - low) * 255).clip(0, 255)
        np.testing.assert_array_equal(image, expected)
    with pytest.raises(ValueError, match=rf"num_channels \(=3\).*'train'.*{num_channels}"):
        prepare_folder(folder, tmp_path / 'out', split='val')


def test_rgba_is_kept_when_asked_for(tmp_path):
    arrays = make_values(2, (4,), 256, np.uint8)
    folder = write_folder(tmp_path / 'in', arrays, '.png', save_png)
    four = prepare_folder(folder, tmp_path / 'four', num_channels=4)
    three = prepare_folder(folder, tmp_path / 'three')
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(four.decode(index)[0], array)
        np.testing.assert_array_equal(three.decode(index)[0], array[..., :3])
        assert four[index]['image'] == three[index]['image']


def test_a_wrong_number_of_channels_ends_in_one_line(tmp_path, capsys):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', 2)
    flags = {
        'format': 'coco_panoptic',
        'images': folder['images_dir'],
        'panoptic': folder['panoptic_dir'],
        'json': folder['json_path'],
        'out': tmp_path / 'out',
        'num_processes': 0,
        'num_channels': 4,
    }
    with pytest.raises(SystemExit):
        main(['prepare', *(f'--{key}={value}' for key, value in flags.items())])
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('error: 000000.png has 3 channels, not the 4')


@pytest.mark.parametrize('orientation', [2, 3, EXIF_ROTATED, 8])
@pytest.mark.parametrize('is_square', [False, True])
def test_pictures_are_turned_to_fit_their_labels(orientation, is_square, tmp_path, capsys):
    upright = np.random.default_rng(0).integers(0, 256, (24, 24 if is_square else 32, 3), np.uint8)
    quarter_turns = {EXIF_ROTATED: 1, 8: 3}.get(orientation, 0)
    stored = np.rot90(upright, k=quarter_turns)
    if orientation == 2:
        stored = stored[:, ::-1]
    if orientation == 3:
        stored = stored[::-1, ::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation

    def save(path, array):
        Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif)

    folder = write_folder(tmp_path / 'in', [stored], '.png', save)
    shape = upright.shape[:2]
    ids = np.ones(shape, np.int32)
    (folder['panoptic_dir'] / '000000.png').write_bytes(images.encode_ids(ids))
    content = json.loads(folder['json_path'].read_text())
    content['images'][0] |= {'height': shape[0], 'width': shape[1]}
    content['annotations'][0]['segments_info'] = [
        {'id': 1, 'category_id': 7, 'iscrowd': 0, 'area': ids.size}
    ]
    folder['json_path'].write_text(json.dumps(content))
    source = prepare_folder(folder, tmp_path / 'out')
    image, panoptic = source.decode(0)
    np.testing.assert_array_equal(image, upright)
    assert panoptic.shape == shape
    # Nobody who reads the record turns the picture again.
    assert Image.open(io.BytesIO(source[0]['image'])).getexif().get(0x0112) is None
    is_told = 'note: 1 images were turned' in capsys.readouterr().out
    assert is_told == (is_square or not quarter_turns)
    # Prediction sees the same picture.
    path = str(folder['images_dir'] / '000000.png')
    np.testing.assert_array_equal(read_image(path, source.pixels), image)


def test_labels_of_stored_pixels_keep_the_picture_as_it_is_stored(tmp_path, capsys):
    arrays = [tiny_folder.make_image(0)]
    exif = Image.Exif()
    exif[0x0112] = EXIF_ROTATED

    def save(path, array):
        Image.fromarray(array).save(path, exif=exif)

    folder = write_folder(tmp_path / 'in', arrays, '.png', save)
    source = prepare_folder(folder, tmp_path / 'out')
    np.testing.assert_array_equal(source.decode(0)[0], arrays[0])
    assert Image.open(io.BytesIO(source[0]['image'])).getexif().get(0x0112) is None
    assert '1 images have an EXIF orientation, and labels of' in capsys.readouterr().out


def test_records_of_earlier_versions_have_three_channels(tmp_path):
    folder = tiny_folder.write_tiny_folder(tmp_path / 'in', 2)
    source = prepare_folder(folder, tmp_path / 'out')
    path = tmp_path / 'out' / 'train' / 'metadata.json'
    metadata = json.loads(path.read_text())
    del metadata['pixels']
    path.write_text(json.dumps(metadata))
    old = records.open_split(tmp_path / 'out', 'train')
    assert old.pixels == source.pixels
    np.testing.assert_array_equal(old.decode(1)[0], tiny_folder.make_image(1))


def test_cases_of_people(shared_dir, tmp_path):
    """Public cases 15, 17 and 18: turned photos, TIFF, and 12 bits in files of 16."""
    for name in ('15_exif_rotated_nonsquare', '17_tiff_images', '18_12bit_in_16bit_png'):
        case = shared_dir / 'cases/public' / name
        if not case.is_dir():
            pytest.skip(f'{case} is not there')
        folder = {
            'images_dir': case / 'images',
            'panoptic_dir': case / 'panoptic',
            'json_path': case / 'panoptic.json',
        }
        source = prepare_folder(folder, tmp_path / name)
        image, panoptic = source.decode(0)
        assert image.shape[:2] == panoptic.shape == (96, 128)[:: 1 if '15' not in name else 1]
        assert len(np.unique(image)) > 50
