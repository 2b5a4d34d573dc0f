"""Label files: every kind gives the same numbers, and hostile ones a named error."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.data import label_files
from tests.data.few_bit_png import encode_grey

NUMBERS = np.array([[0, 3, 3, 9], [0, 0, 250, 9], [1, 1, 250, 0]])


def encode(array, kind='npy', **options):
    stream = io.BytesIO()
    if kind == 'npy':
        np.save(stream, array)
    elif kind == 'tif':
        tifffile.imwrite(stream, array, **options)
    else:
        Image.fromarray(array).save(stream, format='PNG', **options)
    return stream.getvalue()


def encode_lzw():
    stream = io.BytesIO()
    Image.fromarray(NUMBERS.astype(np.uint16)).save(stream, format='TIFF', compression='tiff_lzw')
    return stream.getvalue()


def encode_palette():
    image = Image.fromarray(NUMBERS.astype(np.uint8)).convert('P')
    image.putpalette([7, 7, 7] * 256)
    stream = io.BytesIO()
    image.save(stream, format='PNG', transparency=0)
    return stream.getvalue()


COLORS = np.array([[0, 0, 0], [9, 8, 7], [1, 2, 3], [200, 0, 0], [0, 0, 200]], np.uint8)


def encode_colors(channels=3):
    rgb = COLORS[np.unique(NUMBERS, return_inverse=True)[1].reshape(NUMBERS.shape)]
    alpha = np.full((*NUMBERS.shape, channels - 3), 77, np.uint8)
    return encode(np.concatenate([rgb, alpha], axis=2), 'png')


@pytest.mark.parametrize(
    'data, name',
    [
        (encode(NUMBERS.astype(np.uint8), 'png'), 'a.png'),
        (encode(NUMBERS.astype(np.uint16), 'png'), 'a.PNG'),
        (encode_palette(), 'a.png'),
        (encode(NUMBERS.astype(np.uint8), 'tif'), 'a.tif'),
        (encode(NUMBERS.astype(np.uint16), 'tif', compression='zlib', byteorder='>'), 'a.tiff'),
        (encode(NUMBERS.astype(np.uint32), 'tif', tile=(16, 16)), 'a.tif'),
        (encode(NUMBERS.astype(np.int32), 'tif'), 'a.tif'),
        (encode(NUMBERS.astype(np.float32), 'tif'), 'a.tif'),
        (encode_lzw(), 'a.tif'),
        (encode(NUMBERS), 'a.npy'),
        (encode(NUMBERS.astype('>u2')), 'a.npy'),
        (encode(np.asfortranarray(NUMBERS)[None, :, :, None].astype(np.uint64)), 'a.npy'),
        (encode(NUMBERS.astype(np.float64)), 'a.npy'),
    ],
)
def test_numbers_of_every_kind(data, name):
    objects, numbers = label_files.decode_objects(data, name=name)
    np.testing.assert_array_equal(objects, np.searchsorted([0, 1, 3, 9, 250], NUMBERS))
    assert objects.dtype == np.int32 and numbers.tolist() == [1, 3, 9, 250]
    classes = label_files.decode_class_map(data, name=name, index_of_color={})
    np.testing.assert_array_equal(classes, NUMBERS)
    assert classes.dtype == np.int32


def test_large_numbers_are_objects_too():
    scattered = NUMBERS.astype(np.uint64) * 10**15
    objects, numbers = label_files.decode_objects(encode(scattered), name='a.npy')
    np.testing.assert_array_equal(objects, np.searchsorted([0, 1, 3, 9, 250], NUMBERS))
    assert numbers.tolist() == [v * 10**15 for v in (1, 3, 9, 250)]
    full, numbers = label_files.decode_objects(encode(scattered + 5_000_000), name='a.npy')
    assert full.min() == 1 and len(numbers) == 5


@pytest.mark.parametrize('channels', [3, 4])
def test_colors_are_objects_or_classes(channels):
    data = encode_colors(channels)
    objects, numbers = label_files.decode_objects(data, name='a.png')
    assert len(numbers) == 4 and (objects == 0).sum() == 4
    table = {tuple(color): 10 * i for i, color in enumerate(COLORS.tolist())}
    classes = label_files.decode_class_map(data, name='a.png', index_of_color=table)
    np.testing.assert_array_equal(classes, 10 * np.searchsorted([0, 1, 3, 9, 250], NUMBERS))
    del table[0, 0, 200]
    with pytest.raises(ValueError, match=r'colour \(0, 0, 200\) \(first at y=1, x=2, 2 pixels'):
        label_files.decode_class_map(data, name='a.png', index_of_color=table)
    with pytest.raises(ValueError, match=r'a\.png holds colours, and the list of classes gives no'):
        label_files.decode_class_map(data, name='a.png', index_of_color={})


def test_colors_of_a_grey_file_and_of_a_palette():
    black = encode(np.zeros((3, 4, 3), np.uint8), 'png')
    table = {(0, 0, 0): 5, (7, 7, 7): 6}
    # A file in colours is read by them, even if they are grey; without a table as numbers.
    assert (label_files.decode_class_map(black, name='a', index_of_color=table) == 5).all()
    assert (label_files.decode_class_map(black, name='a', index_of_color={}) == 0).all()
    decode = label_files.decode_class_map
    palette = encode_palette()
    np.testing.assert_array_equal(decode(palette, name='a', index_of_color=table), NUMBERS)
    by_color = decode(palette, name='a', index_of_color=table, prefers_colors=True)
    assert (by_color == 6).all()
    unknown = decode(palette, name='a', index_of_color={(1, 1, 1): 1}, prefers_colors=True)
    np.testing.assert_array_equal(unknown, NUMBERS)


@pytest.mark.parametrize(
    'data, name',
    [
        (encode(NUMBERS > 2, 'png'), 'a.png'),
        (encode((NUMBERS > 2).astype(np.uint8) * 255, 'png'), 'a.png'),
        (encode((NUMBERS > 2).astype(np.uint8), 'png'), 'a.png'),
        (encode(np.repeat((NUMBERS > 2)[..., None] * np.uint8(255), 3, axis=2), 'png'), 'a.png'),
        (encode_grey((NUMBERS > 2).astype(np.uint8), bits=2), 'a.png'),
        (encode(NUMBERS > 2), 'a.npy'),
        (encode((NUMBERS > 2).astype(np.uint8) * 255, 'tif'), 'a.tif'),
        (encode((NUMBERS > 2).astype(np.float32) / 2), 'a.npy'),
    ],
)
def test_binary_masks_of_every_kind(data, name):
    np.testing.assert_array_equal(label_files.decode_mask(data, name=name), NUMBERS > 2)


def test_grey_of_few_bits_keeps_its_values():
    values = (NUMBERS % 4).astype(np.uint8)
    data = encode_grey(values, bits=2)
    np.testing.assert_array_equal(
        label_files.decode_class_map(data, name='a', index_of_color={}), values
    )


def test_masks_with_more_values_are_refused():
    with pytest.raises(
        ValueError, match=r'a\.npy is no binary mask: besides 0 it holds 4 values, 1'
    ):
        label_files.decode_mask(encode(NUMBERS), name='a.npy')


class Bomb:
    def __reduce__(self):
        return (exec, ('raise SystemExit',))


def make_pickle():
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], object), allow_pickle=True)
    return stream.getvalue()


def make_huge_npy():
    stream = io.BytesIO()
    header = {'descr': '<u8', 'fortran_order': False, 'shape': (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


@pytest.mark.parametrize(
    'data, name, message',
    [
        (make_pickle(), 'a.npy', 'holds object values, no numbers; Python objects'),
        (pickle.dumps(Bomb()), 'a.npy', r'a\.npy: not a readable \.npy file'),
        (make_huge_npy(), 'a.npy', 'shape 1000000000x1000000000 is empty or exceeds'),
        (encode(NUMBERS)[:-8], 'a.npy', 'cut off, it has 88 of 96 bytes'),
        (encode(NUMBERS - 1), 'a.npy', r'holds -1 \(first at y=0, x=0\): numbers must not be neg'),
        (encode(NUMBERS + 0.5), 'a.npy', r'holds 0\.5 \(first at y=0, x=0\), which is no number'),
        (encode(NUMBERS * np.nan), 'a.npy', 'holds nan'),
        (
            encode(NUMBERS.astype(complex).real.astype('c8')),
            'a.npy',
            'complex64 values, no numbers',
        ),
        (encode(NUMBERS[0]), 'a.npy', 'shape 4: a label has one value per pixel'),
        (encode(np.zeros((5, 4, 6), int)), 'a.npy', 'shape 5x4x6: a label has one value'),
        (encode(np.zeros((0, 4), int)), 'a.npy', 'shape 0x4 is empty'),
        (b'GIF89a', 'a.png', r'a\.png: not a readable PNG'),
        (encode(NUMBERS.astype(np.uint16), 'png')[:50], 'a.png', r'a\.png: (damaged|not a reada)'),
        (b'II*\0' + bytes(40), 'a.tif', r'a\.tif: not a readable TIFF'),
        (encode(NUMBERS), 'a.tif', r'a\.tif: not a readable TIFF'),
        (
            encode(np.zeros((4, 30, 40), np.uint8), 'tif', photometric='minisblack'),
            'a.tif',
            '4 pages',
        ),
    ],
)
def test_hostile_files(data, name, message):
    with pytest.raises(ValueError, match=message):
        label_files.decode_objects(data, name=name)


def make_png(bits, color_type, raw, size=(1, 1)):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)

    header = struct.pack('>IIBBBBB', *size, bits, color_type, 0, 0, 0)
    chunks = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + chunks


def test_sixteen_bits_per_color_are_refused():
    data = make_png(16, 2, b'\0' + bytes(range(6)))
    with pytest.raises(
        ValueError, match=r'a\.png: a colour PNG of 16 bits per channel is no label'
    ):
        label_files.decode_objects(data, name='a.png')


def test_the_head_of_a_file_tells_whether_it_may_have_many_objects():
    assert label_files.may_have_many_objects(make_png(16, 2, b''), name='a.png')
    assert label_files.may_have_many_objects(make_png(8, 6, b''), name='a.png')
    assert label_files.may_have_many_objects(make_png(16, 0, b''), name='a.png')
    assert not label_files.may_have_many_objects(make_png(8, 0, b''), name='a.png')
    assert not label_files.may_have_many_objects(encode_palette(), name='a.png')
    assert label_files.may_have_many_objects(encode(NUMBERS), name='a.npy')
