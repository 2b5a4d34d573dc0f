"""CamVid in the layouts of the original download and of the SegNet tutorial."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data import records
from pdl_jax.data.readers import camvid
from tests.data.prepare_command import run_prepare

# label_colors.txt of the original download.
LABEL_COLORS = """
64 128 64 Animal; 192 0 128 Archway; 0 128 192 Bicyclist; 0 128 64 Bridge; 128 0 0 Building;
64 0 128 Car; 64 0 192 CartLuggagePram; 192 128 64 Child; 192 192 128 Column_Pole;
64 64 128 Fence; 128 0 192 LaneMkgsDriv; 192 0 64 LaneMkgsNonDriv; 128 128 64 Misc_Text;
192 0 192 MotorcycleScooter; 128 64 64 OtherMoving; 64 192 128 ParkingBlock; 64 64 0 Pedestrian;
128 64 128 Road; 128 128 192 RoadShoulder; 0 0 192 Sidewalk; 192 128 128 SignSymbol;
128 128 128 Sky; 64 128 192 SUVPickupTruck; 0 0 64 TrafficCone; 0 64 64 TrafficLight;
192 64 128 Train; 128 128 0 Tree; 192 128 192 Truck_Bus; 64 0 64 Tunnel; 192 192 0 VegetationMisc;
0 0 0 Void; 64 192 0 Wall
"""
COLORS = {
    name: (int(red), int(green), int(blue))
    for red, green, blue, name in (line.split() for line in LABEL_COLORS.split(';'))
}
# The table of a published conversion, whose classes are numbered as in the SegNet tutorial.
GROUPS = {
    0: {'Sky'},
    1: {'Archway', 'Bridge', 'Building', 'Tunnel', 'Wall'},
    2: {'Column_Pole', 'TrafficCone'},
    3: {'Road', 'LaneMkgsDriv', 'LaneMkgsNonDriv'},
    4: {'Sidewalk', 'ParkingBlock', 'RoadShoulder'},
    5: {'Tree', 'VegetationMisc'},
    6: {'TrafficLight', 'Misc_Text', 'SignSymbol'},
    7: {'Fence'},
    8: {'Car', 'OtherMoving', 'SUVPickupTruck', 'Train', 'Truck_Bus'},
    9: {'Animal', 'CartLuggagePram', 'Child', 'Pedestrian'},
    10: {'Bicyclist', 'MotorcycleScooter'},
    255: {'Void'},
}
CLASS_OF_NAME = {name: semantic for semantic, names in GROUPS.items() for name in names}
FRAMES = {
    'train': ['0001TP_006690', '0001TP_008520', '0006R0_f00930', '0016E5_00390', '0016E5_08640'],
    'val': ['0016E5_07959', '0016E5_08159'],
    'test': ['0001TP_008550', 'Seq05VD_f00000', 'Seq05VD_f02610'],
}


def make_labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns u8[H, W, 3], colours of all 32 classes, and i32[H, W], their grouped classes."""
    names = sorted(COLORS)
    index = np.random.default_rng(len(name)).permutation(96).reshape(8, 12) % 32
    colors = np.array([COLORS[n] for n in names], np.uint8)[index]
    return colors, np.array([CLASS_OF_NAME[n] for n in names], np.int32)[index]


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_original(root, names=None):
    for name in names or sum(FRAMES.values(), []):
        write_image(root / 'LabeledApproved_full' / f'{name}_L.png', make_labels(name)[0])
        write_image(root / '701_StillsRaw_full' / f'{name}.png', np.zeros((8, 12, 3), np.uint8))


def write_tutorial(root):
    for split, names in FRAMES.items():
        for name in names:
            classes = make_labels(name)[1]
            indices = np.where(classes == 255, 11, classes).astype(np.uint8)
            write_image(root / f'{split}annot' / f'{name}.png', indices)
            write_image(root / split / f'{name}.png', np.zeros((8, 12, 3), np.uint8))


def test_classes():
    spec = camvid.make_spec()
    assert (spec.num_classes, spec.ignore_label) == (11, 255)
    assert spec.label_format.thing_classes == ()
    assert spec.class_names[:5] == ('sky', 'building', 'pole', 'road', 'pavement')
    assert spec.class_names[5:] == (
        'tree', 'sign symbol', 'fence', 'car', 'pedestrian', 'bicyclist',
    )  # fmt: skip
    assert spec.categories[8].color == COLORS['Car']


@pytest.mark.parametrize('write', [write_original, write_tutorial])
@pytest.mark.parametrize('split', FRAMES)
def test_both_layouts(tmp_path, write, split):
    write(tmp_path)
    ours = camvid.read_split(tmp_path, split)
    assert [pair.image_id for pair in ours.items] == FRAMES[split]
    # Both are pickled for worker processes.
    load, items = pickle.loads(pickle.dumps((ours.load, ours.items)))
    for item in items:
        record = load(item)
        expected = make_labels(item.image_id)[1] * 1000
        np.testing.assert_array_equal(record.panoptic, expected)
        assert record.panoptic.dtype == np.int32
        assert record.file_name == f'{item.image_id}.png'


def test_sizes_of_the_splits(tmp_path):
    # The frames of the 701 that are annotated: every 30th, a part of 0016E5 every second.
    frames = [f'0001TP_{i:06d}' for i in range(6690, 10381, 30)]
    frames += [f'0006R0_f{i:05d}' for i in range(930, 3931, 30)]
    # Frame 901 breaks the pattern.
    numbers = [n + (n == 900) for n in range(390, 2401, 30)]
    numbers += [*range(4350, 7921, 30), *range(8190, 8641, 30)]
    frames += [f'0016E5_{i:05d}' for i in [*numbers, *range(7959, 8160, 2)]]
    frames += [f'Seq05VD_f{i:05d}' for i in range(0, 5101, 30)]
    assert len(frames) == 701
    for folder in ('701_StillsRaw_full', 'LabeledApproved_full'):
        (tmp_path / folder).mkdir()
    for name in frames:
        (tmp_path / '701_StillsRaw_full' / f'{name}.png').touch()
        (tmp_path / 'LabeledApproved_full' / f'{name}_L.png').touch()
    sizes = [len(camvid.read_split(tmp_path, split).items) for split in ('train', 'val', 'test')]
    assert sizes == [367, 101, 233]


def test_lists_make_other_splits(tmp_path):
    write_original(tmp_path, ['b', 'a', 'c'])
    (tmp_path / 'train.txt').write_text('c\na\n')
    (tmp_path / 'val.txt').write_text('b.png\n')
    ids = [pair.image_id for pair in camvid.read_split(tmp_path, 'train').items]
    assert ids == ['c', 'a']
    assert camvid.read_split(tmp_path, 'val').items[0].image_path == 'b.png'
    with pytest.raises(FileNotFoundError, match=r'test\.txt does not exist: list the frames of ev'):
        camvid.read_split(tmp_path, 'test')
    (tmp_path / 'test.txt').write_text('d\n')
    with pytest.raises(FileNotFoundError, match='1 of 1 names lack a label map.*first d'):
        camvid.read_split(tmp_path, 'test')
    (tmp_path / 'test.txt').write_text('../a\n')
    with pytest.raises(ValueError, match=r'line 1 of test\.txt.*must be a plain name'):
        camvid.read_split(tmp_path, 'test')


@pytest.mark.parametrize('write', [write_original, write_tutorial])
def test_command_line(tmp_path, write):
    write(tmp_path)
    run_prepare([
        '--format=camvid', f'--input={tmp_path}', '--split=val', '--num_processes=0',
        f'--out={tmp_path / "out"}',
    ])  # fmt: skip
    source = records.open_split(tmp_path / 'out', 'val')
    assert (len(source), source.max_segments, source.max_size) == (2, 11, (8, 12))
    assert source.spec == camvid.make_spec()
    for index, name in enumerate(FRAMES['val']):
        image, label = source.decode(index)
        np.testing.assert_array_equal(label, make_labels(name)[1] * 1000)
        assert image.shape == (8, 12, 3)


def test_damaged_and_huge_files(tmp_path):
    write_original(tmp_path, FRAMES['val'])
    split = camvid.read_split(tmp_path, 'val')
    label = tmp_path / 'LabeledApproved_full/0016E5_07959_L.png'
    sound = label.read_bytes()
    label.write_bytes(sound[:60])
    with pytest.raises(ValueError, match=r'07959_L\.png: (damaged|not a readable)'):
        split.load(split.items[0])
    # Width and height come first in a PNG, after 16 bytes.
    chunk = b'IHDR' + struct.pack('>II', 2**14, 2**14) + sound[24:29]
    label.write_bytes(sound[:12] + chunk + struct.pack('>I', zlib.crc32(chunk)) + sound[33:])
    with pytest.raises(ValueError, match=r'07959_L\.png: .*pixels.*limit'):
        split.load(split.items[0])


def test_colors_that_are_no_class(tmp_path):
    write_original(tmp_path)
    for name in ('0016E5_07959', 'Seq05VD_f02610'):
        colors, _ = make_labels(name)
        colors[2, 3] = 26, 25, 0
        write_image(tmp_path / 'LabeledApproved_full' / f'{name}_L.png', colors)
    split = camvid.read_split(tmp_path, 'val')
    message = r'0016E5_07959_L\.png has colour \(26, 25, 0\) \(first at y=2, x=3, 1 unknown'
    with pytest.raises(ValueError, match=message):
        split.load(split.items[0])
    # Only this published label has such colours.
    split = camvid.read_split(tmp_path, 'test')
    expected = make_labels('Seq05VD_f02610')[1] * 1000
    expected[2, 3] = 255_000
    np.testing.assert_array_equal(split.load(split.items[2]).panoptic, expected)


def test_files_that_do_not_fit(tmp_path):
    write_original(tmp_path / 'a')
    split = camvid.read_split(tmp_path / 'a', 'val')
    label = tmp_path / 'a/LabeledApproved_full/0016E5_07959_L.png'
    write_image(label, np.zeros((12, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r'07959\.png has 8x12 .*07959_L\.png has 12x8'):
        split.load(split.items[0])
    write_image(label, np.zeros((8, 12), np.uint8))
    with pytest.raises(ValueError, match=r"07959_L\.png.*RGB PNG.*mode 'L'"):
        split.load(split.items[0])
    label.unlink()
    with pytest.raises(FileNotFoundError, match='1 of 10 names lack a label map.*0016E5_07959'):
        camvid.read_split(tmp_path / 'a', 'train')

    write_tutorial(tmp_path / 'b')
    write_image(tmp_path / 'b/valannot/0016E5_07959.png', np.full((8, 12), 12, np.uint8))
    split = camvid.read_split(tmp_path / 'b', 'val')
    with pytest.raises(ValueError, match=r'07959\.png holds value 12 .*0 \.\. 11'):
        split.load(split.items[0])


@pytest.mark.parametrize('name', ['frame_00001', '0016E5_7959', '0016E5_07959_copy'])
def test_frames_with_other_names(tmp_path, name):
    write_original(tmp_path, [*FRAMES['val'], name])
    with pytest.raises(ValueError, match=rf'{name}\.png is not named like a frame of CamVid'):
        camvid.read_split(tmp_path, 'val')


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='val does not exist: give the folder with 701_'):
        camvid.read_split(tmp_path, 'val')
    (tmp_path / '701_StillsRaw_full').mkdir()
    with pytest.raises(FileNotFoundError, match=r'StillsRaw_full holds no file \*\.png: give'):
        camvid.read_split(tmp_path, 'val')
    with pytest.raises(ValueError, match="split 'all' does not exist for CamVid"):
        camvid.read_split(tmp_path, 'all')
