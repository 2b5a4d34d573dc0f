"""A video predicted frame by frame, by a predictor that is right."""

import csv
import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from etils import epath

from pdl_jax.commands.command_line import main
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.videos import Frame, VideoReader, VideoWriter
from pdl_jax.prediction.video import SegmentTable, predict_video, renumber
from tests.prediction.label_maps import DISK, GROUND, make_result

SIZE = (96, 160)
# Ground and three disks, told by their colours.
COLORS = np.array([(90, 90, 90), (220, 40, 40), (40, 200, 60), (50, 60, 230)])
NUM_FRAMES = 30


class Oracle:
    """A predictor that knows the object of each colour."""

    pixels = PixelFormat()

    def start(self, images):
        (image,) = images
        distance = np.square(image[..., None, :].astype(int) - COLORS).sum(axis=-1)
        index = distance.argmin(axis=-1).astype(np.int32)
        panoptic = np.where(index > 0, DISK * 1000 + index, GROUND * 1000).astype(np.int32)
        # Encoding blurs borders.
        for label, area in zip(*np.unique(panoptic, return_counts=True), strict=True):
            if area < 30:
                panoptic[panoptic == label] = GROUND * 1000
        return lambda: [dataclasses.replace(make_result(panoptic), image=image)]


def draw_crossing():
    """Two disks that cross, one behind the other, and one that stays."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for t in range(NUM_FRAMES):
        image = np.full((*SIZE, 3), COLORS[0], np.uint8)
        for color, row, column, radius in (
            (1, 50, 20 + 4 * t, 13),
            (2, 52, 140 - 4 * t, 16),
            (3, 18, 30, 9),
        ):
            image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = COLORS[color]
        yield Frame(t / 10, image)


@pytest.fixture
def video(tmp_path):
    pytest.importorskip('av', reason="needs PyAV: pip install 'pdl_jax[video]'")
    with VideoWriter(epath.Path(tmp_path / 'a.mp4'), SIZE, Fraction(10)) as writer:
        for frame in draw_crossing():
            writer.write(frame)
    return str(tmp_path / 'a.mp4')


def test_objects_that_cross_keep_their_numbers_in_the_files(video, tmp_path):
    lines = []
    summary = predict_video(
        Oracle(),
        video,
        str(tmp_path / 'out' / 'overlay.mp4'),
        segments=str(tmp_path / 'out' / 'a.jsonl'),
        say=lines.append,
    )
    assert (summary.num_frames, summary.num_objects, summary.num_damaged) == (NUM_FRAMES, 3, 0)
    assert summary.frames_per_s > 0
    assert lines[-1].startswith(f'{NUM_FRAMES} frames in 0:0')
    frames = [json.loads(line) for line in (tmp_path / 'out' / 'a.jsonl').read_text().splitlines()]
    assert [frame['frame'] for frame in frames] == list(range(NUM_FRAMES))
    assert frames[10]['time_s'] == pytest.approx(1.0, abs=0.01)
    things = [{s['id']: s for s in f['segments'] if s['is_thing']} for f in frames]
    assert [set(f) for f in (things[0], things[-1])] == [{1, 2, 3}, {1, 2, 3}]
    # The disks have changed places.
    for number, one in things[0].items():
        start, end = one['centroid']['x'], things[-1][number]['centroid']['x']
        assert end - start == pytest.approx({20: 116, 140: -116, 30: 0}[round(start)], abs=2)
    with VideoReader(str(tmp_path / 'out' / 'overlay.mp4')) as reader:
        pictures = list(reader)
    assert len(pictures) == NUM_FRAMES and pictures[0].image.shape[:2] == SIZE
    assert pictures[10].time_s - pictures[0].time_s == pytest.approx(1.0, abs=0.01)


def test_a_part_of_the_frames_and_a_table(video, tmp_path):
    path = tmp_path / 'a.csv'
    summary = predict_video(
        Oracle(), video, segments=str(path), every=3, max_seconds=1.5, say=lambda line: None
    )
    assert summary.num_frames == 5
    rows = list(csv.DictReader(path.open()))
    assert [row['time_s'] for row in rows if row['id'] == '3'] == [
        '0.000',
        '0.300',
        '0.600',
        '0.900',
        '1.200',
    ]
    assert {row['class'] for row in rows} == {'disk', 'ground'}


def test_numbers_take_the_place_of_instances():
    panoptic = np.full((8, 8), GROUND * 1000, np.int32)
    panoptic[:3, :3], panoptic[5:, 5:] = 1, 2
    result = make_result(panoptic)
    first, second = (result.panoptic[0, 0], result.panoptic[7, 7])
    # Numbers beyond the divisor begin again, and two of a frame differ.
    numbers = {int(first): 7, int(second): 7 + 999}
    changed = renumber(result, numbers)
    assert (changed.panoptic[:3, :3] == 7).all() and (changed.panoptic[5:, 5:] == 8).all()
    assert [s.label for s in changed.segments] == [7, 8, GROUND * 1000]
    assert result.panoptic[0, 0] == first


def test_mistakes_are_told_before_the_network_is_loaded(tmp_path, capsys):
    for flags, message in (
        ([], 'nothing is to be written'),
        (['--output=a.mp4', '--max_gap=-1'], 'max_gap (=-1) must not be negative'),
    ):
        with pytest.raises(SystemExit) as error:
            main(['video', '--checkpoint=missing', '--input=b.mp4', *flags])
        assert error.value.code == 2
        if 'PyAV' not in (text := capsys.readouterr().err):
            assert message in text
    with pytest.raises(ValueError, match='ends in .jsonl or .csv'):
        SegmentTable(epath.Path(tmp_path / 'a.txt'))
