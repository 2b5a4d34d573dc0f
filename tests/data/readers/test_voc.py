"""Pascal VOC and SBD in their published layouts."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import voc
from tests.data.prepare_command import run_prepare

SIZE = (18, 24)


def make_classes(index: int) -> np.ndarray:
    """Returns u8[H, W]: background, two persons and a dog with outlines."""
    classes = np.zeros(SIZE, np.uint8)
    classes[2:9, 1 + index : 8 + index] = 15
    classes[2:9, 12:20] = 15
    classes[11:17, 4:15] = 12
    classes[[2, 8, 11, 16]] = np.where(classes[[2, 8, 11, 16]], 255, 0)
    return classes


def make_objects(index: int) -> np.ndarray:
    """Returns u8[H, W]: object 1 is the person on the right, 2 the dog, 3 the other person."""
    classes = make_classes(index)
    objects = np.where(classes == 15, 1, np.where(classes == 12, 2, classes)).astype(np.uint8)
    objects[:10, :11][objects[:10, :11] == 1] = 3
    return objects


def make_panoptic(index: int) -> np.ndarray:
    """Returns i32[H, W], the panoptic label of `make_classes` and `make_objects`."""
    table = np.zeros(256, np.int32)
    table[[1, 2, 3, 255]] = 15_001, 12_001, 15_002, 255_000
    return table[make_objects(index)]


def make_palette() -> np.ndarray:
    """Returns u8[256, 3], the palette of the development kit, from the bits of the index."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            palette[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return palette


def write_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values).convert('P')
    image.putpalette(make_palette().tobytes())
    image.save(path)


def write_jpeg(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def write_voc(root, **lists):
    """Writes VOC2012 with the given lists of names; images are numbered over all of them."""
    folder = root / 'VOCdevkit/VOC2012'
    lists_dir = folder / 'ImageSets/Segmentation'
    lists_dir.mkdir(parents=True)
    for split, names in lists.items():
        (lists_dir / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
    for index, name in enumerate(dict.fromkeys(sum(lists.values(), []))):
        write_jpeg(folder / 'JPEGImages' / f'{name}.jpg')
        write_png(folder / 'SegmentationClass' / f'{name}.png', make_classes(index))
        write_png(folder / 'SegmentationObject' / f'{name}.png', make_objects(index))
    # Images without masks, as most of VOC's are.
    write_jpeg(folder / 'JPEGImages/2007_000001.jpg')
    return folder


def write_sbd(root, **lists):
    """Writes SBD: a cat (object 1) left of a bus (object 2), whose width depends on the image."""
    folder = root / 'benchmark_RELEASE/dataset'
    for name in ('cls', 'inst'):
        (folder / name).mkdir(parents=True)
    for split, names in lists.items():
        (folder / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
    for index, name in enumerate(sum(lists.values(), [])):
        write_jpeg(folder / 'img' / f'{name}.jpg')
        objects = np.zeros(SIZE, np.uint8)
        objects[3:, :4] = 1
        objects[5:9, 10 : 15 + index] = 2
        classes = np.array([0, 8, 6], np.uint8)[objects]
        write_mat(folder / 'cls' / f'{name}.mat', 'GTcls', classes, CategoriesPresent=[[6], [8]])
        write_mat(folder / 'inst' / f'{name}.mat', 'GTinst', objects, Categories=[[8], [6]])
    return folder


def write_mat(path, variable, segmentation, **fields):
    boundaries = np.empty((2, 1), object)
    boundaries[:, 0] = [scipy.sparse.csc_matrix(np.eye(3)), scipy.sparse.csc_matrix((3, 3))]
    fields = {key: np.array(value, np.uint8) for key, value in fields.items()}
    struct = {'Boundaries': boundaries, 'Segmentation': segmentation, **fields}
    scipy.io.savemat(path, {variable: struct}, do_compression=True)


def make_element(kind: int, content: bytes, size: int | None = None) -> bytes:
    """Returns an element of a MATLAB 5 file; `size` is the size that it states."""
    tag = struct.pack('<II', kind, len(content) if size is None else size)
    return tag + content + bytes(-len(content) % 8)


def make_matrix(kind: int, size: tuple[int, ...], content: bytes, name: bytes = b'') -> bytes:
    flags = make_element(6, struct.pack('<II', kind, 0))
    dimensions = make_element(5, struct.pack(f'<{len(size)}i', *size))
    return make_element(14, flags + dimensions + make_element(1, name) + content)


def make_mat(
    *, size=SIZE, num_structs=1, num_values=None, num_zeros=0, depth=0, byte_order=b'IM'
) -> bytes:
    """Returns a compressed file with GTinst.Segmentation; the arguments can make it invalid."""
    segmentation = make_matrix(9, size, make_element(2, bytes(SIZE[0] * SIZE[1]), num_values))
    if depth:
        # Nested cells, from the outermost inwards.
        head = make_matrix(1, (1, 1), b'')[8:]
        sizes = [len(segmentation) + (len(head) + 8) * i for i in range(depth, 0, -1)]
        cells = [struct.pack('<II', 14, size - 8) + head for size in sizes]
        segmentation = b''.join(cells) + segmentation
    names = make_element(5, struct.pack('<i', 16))
    names += make_element(1, b'Segmentation'.ljust(16, b'\0'))
    variable = make_matrix(2, (num_structs, 1), names + segmentation, b'GTinst')
    packed = zlib.compress(variable + bytes(num_zeros))
    header = b'MATLAB 5.0 MAT-file'.ljust(124) + b'\0\1' + byte_order
    return header + struct.pack('<II', 15, len(packed)) + packed


def load_all(split):
    # Both are pickled for worker processes.
    load, items = pickle.loads(pickle.dumps((split.load, split.items)))
    return {record.image_id: record for record in map(load, items)}


def test_classes():
    spec = voc.make_spec('panoptic')
    assert (spec.num_classes, spec.ignore_label, spec.label_divisor) == (21, 255, 1000)
    assert spec.label_format.thing_classes == tuple(range(1, 21))
    assert spec.class_names[0] == 'background' and spec.class_names[20] == 'tvmonitor'
    np.testing.assert_array_equal(spec.make_palette()[:21], make_palette()[:21])
    semantic = voc.make_spec('semantic')
    assert semantic.label_format.thing_classes == ()
    assert semantic.class_names == spec.class_names


def test_names_are_those_of_the_label_file(shared_dir):
    lines = (shared_dir / 'data/coral_photos/pascal_voc_segmentation_labels.txt').read_text()
    assert voc.make_spec('semantic').class_names == tuple(lines.split('\n')[:21])


def test_both_tasks(tmp_path):
    folder = write_voc(tmp_path, train=['2008_000002', '2007_000032'], val=['2009_000001'])
    semantic = voc.read_split(folder, 'train')
    panoptic = voc.read_split(folder, 'train', task='panoptic')
    assert [pair.image_id for pair in semantic.items] == ['2008_000002', '2007_000032']
    for index, (item, other) in enumerate(zip(semantic.items, panoptic.items, strict=True)):
        record = semantic.load(item)
        np.testing.assert_array_equal(record.panoptic, make_classes(index).astype(int) * 1000)
        np.testing.assert_array_equal(panoptic.load(other).panoptic, make_panoptic(index))
        assert panoptic.load(other).panoptic.dtype == np.int32
    last = semantic.load(semantic.items[-1])
    assert last.file_name == '2007_000032.jpg'
    assert last.annotation_file_name == '2007_000032.png'
    assert load_all(voc.read_split(folder, 'val')).keys() == {'2009_000001'}


def test_classes_and_objects_that_disagree(tmp_path):
    folder = write_voc(tmp_path, train=['a'])
    classes = np.array([[0, 15, 15, 12, 15, 255]], np.uint8)
    # Object 4 has a pixel of another class, one of background and one of an outline.
    objects = np.array([[4, 4, 4, 4, 0, 4]], np.uint8)
    write_png(folder / 'SegmentationClass/a.png', classes)
    write_png(folder / 'SegmentationObject/a.png', objects)
    write_jpeg(folder / 'JPEGImages/a.jpg', (1, 6))
    split = voc.read_split(folder, 'train', task='panoptic')
    labels = split.load(split.items[0]).panoptic.tolist()
    assert labels == [[0, 15_001, 15_001, 15_001, 255_000, 255_000]]


@pytest.mark.parametrize('task', ['semantic', 'panoptic'])
def test_trainaug_is_train_with_sbd_but_without_val(tmp_path, task):
    folder = write_voc(tmp_path, train=['v1', 'both'], val=['v2', 'held_out'])
    sbd = write_sbd(tmp_path, train=['s1', 'both', 'held_out'], val=['s2', 'v2'])
    split = voc.read_split(folder, 'trainaug', task=task, sbd_root=sbd)
    loaded = load_all(split)
    assert list(loaded) == ['v1', 'both', 's1', 's2']
    # VOC's own annotation wins.
    expected = make_panoptic(1) if task == 'panoptic' else make_classes(1).astype(int) * 1000
    np.testing.assert_array_equal(loaded['both'].panoptic, expected)
    # s1 and s2 are images 0 and 3 of SBD.
    instance = int(task == 'panoptic')
    for name, width in (('s1', 5), ('s2', 8)):
        expected = np.zeros(SIZE, int)
        expected[3:, :4] = 8000 + instance
        expected[5:9, 10 : 10 + width] = 6000 + instance
        np.testing.assert_array_equal(loaded[name].panoptic, expected)
        assert loaded[name].panoptic.dtype == np.int32
        assert loaded[name].annotation_file_name == f'{name}.png'
        assert loaded[name].image == (sbd / 'img' / f'{name}.jpg').read_bytes()
    assert voc.read_split(folder, 'train', task=task).fingerprint != split.fingerprint


def test_trainaug_from_the_folder_of_pngs(tmp_path):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    with pytest.raises(FileNotFoundError, match=r'trainaug\.txt does not exist: pass --sbd'):
        voc.read_split(folder, 'trainaug', task='semantic')
    (folder / 'ImageSets/Segmentation/trainaug.txt').write_text('v1\ns1\n')
    with pytest.raises(FileNotFoundError, match='ClassAug does not exist: pass --sbd'):
        voc.read_split(folder, 'trainaug', task='semantic')
    write_jpeg(folder / 'JPEGImages/s1.jpg')
    (folder / 'SegmentationClassAug').mkdir()
    for index, name in enumerate(['v1', 's1']):
        # This folder is grey, not a palette.
        image = Image.fromarray(make_classes(index))
        image.save(folder / 'SegmentationClassAug' / f'{name}.png')
    loaded = load_all(voc.read_split(folder, 'trainaug', task='semantic'))
    assert list(loaded) == ['v1', 's1']
    np.testing.assert_array_equal(loaded['s1'].panoptic, make_classes(1).astype(int) * 1000)
    with pytest.raises(ValueError, match='needs SBD for its objects: pass --sbd'):
        voc.read_split(folder, 'trainaug', task='panoptic')


def test_command_line(tmp_path):
    folder = write_voc(tmp_path, train=['v1', 'both'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['s1'], val=['v2'])
    run_prepare([
        '--format=voc', f'--input={folder}', f'--sbd={sbd}', '--split=trainaug',
        '--task=panoptic', '--num_processes=0', f'--out={tmp_path / "out"}',
    ])  # fmt: skip
    source = records.open_split(tmp_path / 'out', 'trainaug')
    assert (len(source), source.max_segments, source.max_instances) == (3, 4, 3)
    assert source.spec == voc.make_spec('panoptic')
    np.testing.assert_array_equal(source.decode(1)[1], make_panoptic(1))


def test_real_masks(shared_dir, tmp_path):
    # Two photographs whose masks hold the classes of VOC, as bitmaps.
    photos = shared_dir / 'data/coral_photos'
    folder = write_voc(tmp_path, val=['bird', 'dog'])
    for name in ('bird', 'dog'):
        mask = np.asarray(Image.open(photos / f'{name}_segmentation_mask.bmp'))
        Image.open(photos / f'{name}_segmentation.bmp').save(folder / f'JPEGImages/{name}.jpg')
        write_png(folder / f'SegmentationClass/{name}.png', mask)
        split = voc.read_split(folder, 'val', task='semantic')
        record = split.load(split.items[['bird', 'dog'].index(name)])
        np.testing.assert_array_equal(record.panoptic, mask.astype(int) * 1000)


@pytest.mark.parametrize(
    'line, message',
    [
        ('../../../etc/passwd', r'line 2 of train\.txt.*must be a plain name'),
        ('/etc/passwd', 'must be a plain name'),
        ('v1', "'v1' is listed twice"),
    ],
)
def test_lists_that_are_refused(tmp_path, line, message):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['v1'], val=['s1'])
    (sbd / 'train.txt').write_text(f'v1\n{line}\n')
    with pytest.raises(ValueError, match=message):
        voc.read_split(folder, 'trainaug', sbd_root=sbd)
    (folder / 'ImageSets/Segmentation/train.txt').write_text(f'v1\n{line}\n')
    with pytest.raises(ValueError, match=message):
        voc.read_split(folder, 'train')


def test_files_that_do_not_fit(tmp_path):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    split = voc.read_split(folder, 'train', task='panoptic')
    objects = folder / 'SegmentationObject/v1.png'
    write_png(objects, make_objects(0)[1:])
    with pytest.raises(ValueError, match=r'SegmentationObject/v1\.png.*\(17, 24\).*\(18, 24\)'):
        split.load(split.items[0])
    Image.fromarray(np.full(SIZE, 256, np.uint16)).save(objects)
    with pytest.raises(ValueError, match=r'SegmentationObject/v1\.png holds value 256'):
        split.load(split.items[0])
    write_png(folder / 'SegmentationClass/v1.png', np.full(SIZE, 21, np.uint8))
    with pytest.raises(ValueError, match=r'v1\.png holds value 21 \(first at y=0, x=0.*0 \.\. 20'):
        split.load(split.items[0])
    # The colours of the palette as pixels are a common mistake.
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / 'SegmentationClass/v1.png')
    with pytest.raises(ValueError, match=r"v1\.png: indices must be a PNG with.*mode 'RGB'"):
        split.load(split.items[0])
    objects.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 1 names lack a label map.*Object, first v1'):
        voc.read_split(folder, 'train', task='panoptic')
    (folder / 'JPEGImages/v2.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 1 names lack an image in.*first v2'):
        voc.read_split(folder, 'val')


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda p: p.write_bytes(b'MATLAB 7.3 MAT-file' * 20), r'inst/s1\.mat is damaged, or no'),
        (lambda p: p.write_bytes(p.read_bytes()[:-40]), r'inst/s1\.mat is damaged'),
        (lambda p: p.write_bytes(b''), r'inst/s1\.mat is damaged'),
        (lambda p: scipy.io.savemat(p, {'GTinst': np.eye(3)}), r'no MATLAB file with GTinst\.Seg'),
        (lambda p: scipy.io.savemat(p, {'GTcls': {'a': 1}}), 'there is no variable GTinst'),
        (
            lambda p: write_mat(p, 'GTinst', np.eye(*SIZE) / 2, Categories=[[8]]),
            r'inst/s1\.mat: GTinst\.Segmentation must hold integers 0 \.\. 255, got .* float64',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.full(SIZE, -1, np.int8), Categories=[[8]]),
            r'must hold integers 0 \.\. 255, got others of type int8',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.full(SIZE, 2**32 - 1), Categories=[[8]]),
            r'must hold integers 0 \.\. 255, got others of type int64',
        ),
        (
            lambda p: write_mat(p, 'GTinst', 'text', Categories=[[8]]),
            'the field holds no numbers',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.ones((18, 24, 3), np.uint8), Categories=[[8]]),
            r'Segmentation must be \[height, width\].*got \[18, 24, 3\]',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.full(SIZE, 2, np.uint8), Categories=[[8]]),
            r'inst/s1\.mat holds value 2 \(first at y=0, x=0',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.ones(SIZE, np.uint8), Categories=[[21]]),
            r'Categories holds 1 classes of objects, \[21\] of them none of 1 \.\. 20',
        ),
        (
            lambda p: write_mat(p, 'GTinst', np.ones((9, 9), np.uint8), Categories=[[8]]),
            r's1\.jpg has 18x24 pixels .* inst/s1\.mat has 9x9',
        ),
        (lambda p: (p.parents[1] / 'img/s1.jpg').write_bytes(b'x'), r's1\.jpg: not a readable'),
        (lambda p: p.write_bytes(make_mat(byte_order=b'MI')), 'not start with the header'),
        # A size that a file states must not be allocated.
        (
            lambda p: p.write_bytes(make_mat(size=(2**31 - 1, 2**31 - 1))),
            r'432 numbers, but size \[2147483647, 2147483647\]',
        ),
        (lambda p: p.write_bytes(make_mat(size=(-SIZE[0], -SIZE[1]))), r'size \[-18, -24\]'),
        (lambda p: p.write_bytes(make_mat(num_structs=2**31 - 1)), 'GTinst is no single struct'),
        (lambda p: p.write_bytes(make_mat(num_values=2**32 - 16)), 'damaged.*it is truncated'),
        (lambda p: p.write_bytes(make_mat(num_zeros=2**24)), 'or larger than 16777216 bytes'),
        (lambda p: p.write_bytes(bytes(2**24 + 1)), '16777217 bytes exceed the limit'),
        (lambda p: p.write_bytes(make_mat(depth=20_000)), 'the field holds no numbers'),
    ],
)
def test_broken_files_of_sbd(tmp_path, damage, message):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['s1'], val=['v2'])
    split = voc.read_split(folder, 'trainaug', task='panoptic', sbd_root=sbd)
    damage(sbd / 'inst/s1.mat')
    with pytest.raises(ValueError, match=message):
        split.load(split.items[1])


@pytest.mark.parametrize('is_compressed', [False, True])
@pytest.mark.parametrize('dtype', ['u1', 'i2', 'u4', 'i8', 'f4', 'f8', '?'])
def test_numbers_are_those_that_scipy_wrote(tmp_path, dtype, is_compressed):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['s1'], val=['v2'])
    path = sbd / 'inst/s1.mat'
    objects = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 5 == 0).astype(dtype)
    # The struct has fields before and after, and the file another variable.
    categories = np.array([[20]], 'u1' if dtype == '?' else dtype)
    fields = {'a': {'b': 1}, 'Segmentation': objects, 'Categories': categories, 'c': 'd'}
    content = {'other': np.ones(3), 'GTinst': fields}
    scipy.io.savemat(path, content, do_compression=is_compressed)
    split = voc.read_split(folder, 'trainaug', task='panoptic', sbd_root=sbd)
    label = split.load(split.items[1]).panoptic
    np.testing.assert_array_equal(label, np.where(objects, 20_001, 0))


def test_made_files_are_what_scipy_reads(tmp_path):
    path = tmp_path / 'a.mat'
    path.write_bytes(make_mat())
    assert scipy.io.loadmat(path)['GTinst']['Segmentation'][0, 0].shape == SIZE


def test_damaged_bytes_never_do_more_than_raise(tmp_path):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['s1'], val=['v2'])
    split = voc.read_split(folder, 'trainaug', task='panoptic', sbd_root=sbd)
    path = sbd / 'inst/s1.mat'
    # Without compression, whose checksum would detect every change.
    fields = {'Segmentation': np.ones(SIZE, np.uint8), 'Categories': np.array([[8]], np.uint8)}
    scipy.io.savemat(path, {'GTinst': fields})
    sound = path.read_bytes()
    generator = np.random.default_rng(0)
    num_errors = 0
    for _ in range(200):
        content = bytearray(sound)
        # Tags, sizes and names, and a few pixels.
        for position in generator.integers(128, 400, 3):
            content[position] = generator.integers(256)
        path.write_bytes(content)
        try:
            split.load(split.items[1])
        except ValueError as error:
            assert 'inst/s1.mat' in str(error)
            num_errors += 1
    assert 50 < num_errors < 200


def test_void_of_sbd_and_classes_that_do_not_exist(tmp_path):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    sbd = write_sbd(tmp_path, train=['s1'], val=['v2'])
    split = voc.read_split(folder, 'trainaug', task='semantic', sbd_root=sbd)
    classes = np.array([[0, 20, 255]], np.uint8)
    write_jpeg(sbd / 'img/s1.jpg', (1, 3))
    write_mat(sbd / 'cls/s1.mat', 'GTcls', classes)
    assert split.load(split.items[1]).panoptic.tolist() == [[0, 20_000, 255_000]]
    write_mat(sbd / 'cls/s1.mat', 'GTcls', classes + 1)
    with pytest.raises(ValueError, match=r'cls/s1\.mat holds value 21'):
        split.load(split.items[1])


def test_what_is_not_there(tmp_path):
    folder = write_voc(tmp_path, train=['v1'], val=['v2'])
    with pytest.raises(FileNotFoundError, match='unpack VOCtrainval.*VOCdevkit/VOC2012'):
        voc.read_split(tmp_path / 'VOCdevkit', 'train')
    with pytest.raises(ValueError, match='--sbd extends split trainaug'):
        voc.read_split(folder, 'train', sbd_root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r'train\.txt does not.*unpack benchmark\.tgz'):
        voc.read_split(folder, 'trainaug', sbd_root=tmp_path)
    with pytest.raises(ValueError, match="split 'test' does not exist for Pascal VOC"):
        voc.read_split(folder, 'test')
    with pytest.raises(ValueError, match="task 'instance' does not exist"):
        voc.read_split(folder, 'train', task='instance')
    sbd = write_sbd(tmp_path, train=['s1'], val=['s2'])
    (sbd / 'inst/s2.mat').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map.*inst, first s2'):
        voc.read_split(folder, 'trainaug', task='panoptic', sbd_root=sbd)
