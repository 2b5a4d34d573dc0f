"""Videos written and read again, cameras, and files that are damaged or no videos."""

import os
from fractions import Fraction

import numpy as np
import pytest
from etils import epath

from pdl_jax.data import videos
from pdl_jax.data.pixel_format import PixelFormat
from pdl_jax.data.videos import Frame, VideoReader, VideoWriter

av = pytest.importorskip('av', reason="needs PyAV: pip install 'pdl_jax[video]'")


def draw_frames(num_frames=12, size=(48, 66)):
    """A bright square on a dark ramp, moving by 3 px per frame, 5 frames per second."""
    ramp = np.linspace(0, 90, size[1]).astype(np.uint8)
    for t in range(num_frames):
        image = np.repeat(np.tile(ramp, (size[0], 1))[..., None], 3, axis=2)
        image[10:30, 3 * t : 3 * t + 20] = (220, 60, 20)
        yield Frame(t / 5, image)


def write_video(path, frames=None, rate=Fraction(5)):
    frames = list(frames or draw_frames())
    with VideoWriter(epath.Path(path), frames[0].image.shape[:2], rate) as writer:
        for frame in frames:
            writer.write(frame)
    return frames


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov'])
def test_frames_come_back_at_their_times(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    frames = write_video(path)
    with VideoReader(str(path)) as reader:
        assert reader.size == (48, 66) and reader.rate == 5
        assert abs(reader.num_frames - len(frames)) <= 1
        read = list(reader)
    assert len(read) == len(frames)
    for one, other in zip(frames, read, strict=True):
        assert other.time_s - read[0].time_s == pytest.approx(one.time_s, abs=0.02)
        assert other.image.shape == (48, 66, 3) and other.image.dtype == np.uint8
        assert np.abs(one.image.astype(int) - other.image).mean() < 8
    assert os.listdir(tmp_path) == [path.name]


def test_odd_sizes_get_one_more_pixel(tmp_path):
    write_video(tmp_path / 'a.mp4', draw_frames(3, (47, 65)))
    with VideoReader(str(tmp_path / 'a.mp4')) as reader:
        assert {frame.image.shape for frame in reader} == {(48, 66, 3)}


def test_grey_networks_get_one_channel(tmp_path):
    write_video(tmp_path / 'a.mp4', draw_frames(2))
    with VideoReader(str(tmp_path / 'a.mp4'), PixelFormat(1)) as reader:
        assert next(iter(reader)).image.shape == (48, 66, 1)
    with pytest.raises(ValueError, match='videos have 3 channels or 1, and the network takes 5'):
        VideoReader(str(tmp_path / 'a.mp4'), PixelFormat(5))


def test_a_file_that_is_cut_off_gives_the_frames_before(tmp_path):
    rng = np.random.default_rng(0)
    noise = (Frame(t / 5, rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)) for t in range(40))
    write_video(tmp_path / 'a.mkv', noise)
    data = (tmp_path / 'a.mkv').read_bytes()
    (tmp_path / 'cut.mkv').write_bytes(data[: len(data) // 2])
    with VideoReader(str(tmp_path / 'cut.mkv')) as reader:
        assert 5 < len(list(reader)) < 40
    damaged = bytearray(data)
    for start in range(len(data) // 4, len(data) // 2, 997):
        damaged[start : start + 200] = b'\xff' * 200
    (tmp_path / 'damaged.mkv').write_bytes(damaged)
    with VideoReader(str(tmp_path / 'damaged.mkv')) as reader:
        assert len(list(reader)) > 5


@pytest.mark.parametrize('content', [b'', b'no video at all' * 100, b'\x00\x00\x00\x18ftypmp42'])
def test_what_is_no_video_is_named(tmp_path, content):
    path = tmp_path / 'a.mp4'
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r'a\.mp4.*(not a readable video|no pictures)'):
        list(VideoReader(str(path)))


def test_playlists_open_no_other_files(tmp_path):
    write_video(tmp_path / 'secret.mp4')
    for name, text in (
        ('a.m3u8', '#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n'),
        ('a.mp4', 'ffconcat version 1.0\nfile secret.mp4\n'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match='not a readable video'):
            VideoReader(str(tmp_path / name))


def test_large_frames_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / 'a.mp4')
    monkeypatch.setattr(videos, 'MAX_FRAME_PIXELS', 48 * 66 - 1)
    with pytest.raises(ValueError, match=r'a\.mp4: frames of 48x66 pixels, the limit is 3167'):
        VideoReader(str(tmp_path / 'a.mp4'))


def test_missing_files_pipes_and_addresses_are_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        VideoReader(str(tmp_path / 'missing.mp4'))
    os.mkfifo(tmp_path / 'pipe.mp4')
    with pytest.raises(ValueError, match='is a named pipe'):
        VideoReader(str(tmp_path / 'pipe.mp4'))
    with pytest.raises(ValueError, match='videos are read from local files'):
        VideoReader('https://example.com/a.mp4')
    with pytest.raises(ValueError, match='ends in .mp4'):
        VideoWriter(epath.Path(tmp_path / 'a.png'), (8, 8), Fraction(5))


def test_a_camera_is_a_stream(monkeypatch):
    # The library's test picture in the place of a device.
    camera = ('lavfi', 'testsrc=size=64x48:rate=5:duration={}9')
    monkeypatch.setattr(videos, '_CAMERAS', dict.fromkeys(('linux', 'darwin', 'win32'), camera))
    with VideoReader('camera') as reader:
        frames = [frame for _, frame in zip(range(7), reader, strict=False)]
    assert [frame.time_s for frame in frames] == pytest.approx([t / 5 for t in range(7)], abs=0.01)
    assert frames[0].image.shape == (48, 64, 3)
    monkeypatch.setattr(videos, '_CAMERAS', {})
    with pytest.raises(ValueError, match='cameras are not read on'):
        VideoReader('camera:1')


def test_a_video_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError):
        with VideoWriter(epath.Path(tmp_path / 'a.mp4'), (48, 66), Fraction(5)) as writer:
            writer.write(next(draw_frames()))
            raise RuntimeError
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(epath.Path(tmp_path / 'a.mp4'), (48, 66), Fraction(5)) as writer:
            for frame in draw_frames():
                writer.write(frame)
            raise KeyboardInterrupt
    with VideoReader(str(tmp_path / 'a.mp4')) as reader:
        assert len(list(reader)) == 12
