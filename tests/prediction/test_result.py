"""Files and views of a result."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.catalog import get_spec
from pdl_jax.prediction.result import Box, PanopticResult, Point, Segment

CATEGORIES = [
    {'id': 4, 'name': 'nucleus', 'isthing': 1, 'color': [250, 10, 20]},
    {'id': 9, 'name': 'back, ground', 'isthing': 0, 'color': [1, 2, 3]},
]


@pytest.fixture
def result():
    spec = get_spec('auto', CATEGORIES, source='test')
    divisor = spec.label_divisor
    panoptic = np.full((6, 8), spec.label_format.void_label, np.int32)
    panoptic[:, :4] = divisor
    panoptic[1:3, 5:8] = 1
    panoptic[5, 5] = 2
    common = {'category_id': 4, 'class_id': 0, 'class_name': 'nucleus', 'is_thing': True}
    segments = (
        Segment(1, score=0.5, area_px=6, centroid=Point(1.5, 6.0), box=Box(1, 5, 3, 8), **common),
        Segment(2, score=1.0, area_px=1, centroid=Point(5.0, 5.0), box=Box(5, 5, 6, 6), **common),
        Segment(divisor, 1, 'back, ground', 9, False, 0.9, 24, Point(2.5, 1.5), Box(0, 0, 6, 4)),
    )
    image = np.full((6, 8, 3), 90, np.uint8)
    return PanopticResult(
        panoptic, segments, spec, image=image, name='my cell.jpg', postprocess={'min_score': 0.1}
    )


def test_views(result):
    assert repr(result) == 'PanopticResult(6x8: 2 nucleus; back, ground)'
    assert result.masks.shape == (3, 6, 8)
    assert result.masks.sum(axis=(1, 2)).tolist() == [s.area_px for s in result.segments]
    y0, x0, y1, x1 = result.segments[0].box
    assert result.masks[0, y0:y1, x0:x1].all()
    assert result.with_style(min_side_px=0).draw_overlay().shape == (6, 8, 3)
    # Names cannot be read on so small a picture.
    assert result.draw_overlay().shape == (480, 640, 3)
    color = result.draw_color()
    assert color[0, 0].tolist() == [1, 2, 3] and not color[0, 7].any()
    empty = PanopticResult(result.panoptic, (), result.spec)
    assert repr(empty).endswith(': no things)') and empty.masks.shape == (0, 6, 8)
    with pytest.raises(ValueError, match='does not know its image'):
        empty.draw_overlay()


def test_a_folder_gets_files_by_kind(result, tmp_path):
    written = result.save(tmp_path / 'out', ['json', 'csv', 'ids', 'color', 'overlay'])
    assert sorted(path.name for path in written) == [
        'my cell.csv',
        'my cell.json',
        'my cell_color.png',
        'my cell_overlay.png',
        'my cell_panoptic.png',
    ]
    # Its presence means that the image is done.
    assert written[-1].suffix == '.json'
    found = json.loads(written[-1].read_text())
    assert found['postprocess'] == {'min_score': 0.1} and found['file_name'] == 'my cell.jpg'
    assert (found['height'], found['width']) == (6, 8)
    segment = found['segments'][0]
    assert segment['box'] == {'y0': 1, 'x0': 5, 'y1': 3, 'x1': 8}
    assert segment['centroid'] == {'y': 1.5, 'x': 6.0} and segment['id'] == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'out/my cell.csv').read_text('utf-8-sig'))))
    assert [row['class'] for row in rows] == ['nucleus', 'nucleus', 'back, ground']
    assert rows[0] == {
        'image': 'my cell.jpg',
        'id': '1',
        'class': 'nucleus',
        'category_id': '4',
        'is_thing': '1',
        'score': '0.5000',
        'area_px': '6',
        'centroid_y': '1.5',
        'centroid_x': '6.0',
        **dict(zip(('y0', 'x0', 'y1', 'x1'), '1538', strict=True)),
    }
    color = np.asarray(Image.open(tmp_path / 'out/my cell_color.png'))
    np.testing.assert_array_equal(color, result.draw_color())
    names = [path.name for path in result.save(tmp_path / 'default')]
    assert names == ['my cell_overlay.png', 'my cell_panoptic.png', 'my cell.json']


def test_a_suffix_means_one_file(result, tmp_path):
    for name in ('a/b.PNG', 'c.csv', 'd.json', 'e.html'):
        assert [str(p) for p in result.save(tmp_path / name)] == [str(tmp_path / name)]
    assert Image.open(tmp_path / 'a/b.PNG').size == (640, 480)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'c.csv', 'd.json', 'e.html']
    assert (tmp_path / 'e.html').read_text().startswith('<!DOCTYPE html>')
    with pytest.raises(ValueError, match="no output 'colour'; did you mean 'color'"):
        result.save(tmp_path, ['colour'])


def test_styles_change_pictures_and_nothing_else(result):
    plain = result.with_style(min_side_px=0, contrast='none')
    other = plain.with_style(palette='colorblind')
    assert (other.draw_color() != plain.draw_color()).any()
    assert other.to_json() == plain.to_json() and other.to_png() == plain.to_png()
    # A pixel of stuff away from all borders, of the colour (1, 2, 3) over grey of 90.
    faint, full = (plain.with_style(alpha=a).draw_overlay()[0, 0] for a in (0.1, 1))
    assert full.tolist() == [1, 2, 3]
    np.testing.assert_allclose(faint, [81, 81, 81], atol=1)
    with pytest.raises(ValueError, match="pictures have no pallete; did you mean 'palette'"):
        result.with_style(pallete='given')
    with pytest.raises(ValueError, match=r'alpha \(=2\) must lie in \[0, 1\]'):
        result.with_style(alpha=2)
    with pytest.raises(ValueError, match="palette .='blue'. must be one of given, colorblind"):
        result.with_style(palette='blue')


def test_panels_and_errors(result):
    result = result.with_style(min_side_px=0)
    panel = result.draw_panel()
    assert panel.shape[1] == 8 + 4 + 8
    truth = np.where(result.panoptic == 1, 2, result.panoptic)
    with_truth = result.draw_panel(truth=truth)
    assert with_truth.shape[1] == panel.shape[1] and len(with_truth) > len(panel) + 6
    errors = result.draw_errors(truth)
    assert errors.shape == (6, 8, 3)
    # The larger object takes the label of the true one; the other is another object.
    assert errors[1, 5, 0] == errors[1, 5, 1] and errors[5, 5].tolist() == [204, 121, 167]


def test_outputs_of_the_network_are_drawn_if_they_were_kept(result):
    with pytest.raises(ValueError, match='no centers of the network: .*keep_outputs=True'):
        result.draw_center()
    outputs = {'center': np.zeros((3, 4), np.float32), 'offset': np.ones((3, 4, 2), np.float32)}
    outputs['center'][1, 3] = 1
    kept = dataclasses.replace(result, outputs=outputs)
    center, offset = kept.draw_center(), kept.draw_offset()
    assert center.shape == offset.shape == (3, 4, 3)
    assert center[1, 3].tolist() == [252, 255, 164]
    # Offsets are drawn on objects alone, which are seen in the middle of each two by two pixels.
    is_object = result.panoptic % result.spec.label_divisor > 0
    np.testing.assert_array_equal(offset.any(axis=-1), is_object[1::2, 1::2])
