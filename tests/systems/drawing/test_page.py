"""The page to point at: what it holds, and what a browser shows."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pdl_jax.systems.drawing.page import PageSegment, encode_runs, make_page
from tests.systems.drawing.scene import COLORS, FORMAT, VOID, make_scene

HOSTILE = '</script><b>"&\u2028'
SEGMENTS = (
    PageSegment(0, 'sky', 0.912, 28000),
    PageSegment(2001, HOSTILE, 0.5, 12000),
    PageSegment(2002, 'cow', 1.0, 9600),
    PageSegment(1000, 'grass', 0.25, 1234567),
)


def make_scene_page(factor=1, image=None):
    panoptic = np.kron(make_scene(), np.ones((factor, factor), np.int32))
    image = np.full((*panoptic.shape, 3), 90, np.uint8) if image is None else image
    return make_page(image, panoptic, FORMAT, segments=SEGMENTS, colors=COLORS, title='a<b>&.jpg')


def read_data(page):
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(text)


def decode_runs(data):
    """Decodes the bytes of `encode_runs` one by one."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return np.repeat(numbers[::2], numbers[1::2])


@pytest.mark.parametrize('high', [2, 127, 128, 129, 70_000, 2**31])
def test_runs_give_the_map_back(high):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, high, (5, 7)).repeat(3, axis=0).repeat(rng.integers(1, 400, 7), axis=1)
    ids[0, 0] = 0
    np.testing.assert_array_equal(decode_runs(encode_runs(ids)), ids.ravel())


def test_the_page_holds_the_panoptic_map_and_the_list():
    data = read_data(make_scene_page())
    ids = decode_runs(base64.b64decode(data['runs'])).reshape(data['height'], data['width'])
    scene = make_scene()
    assert ids.shape == scene.shape
    labels = np.array([-1, *(segment.label for segment in SEGMENTS)])
    listed = np.where(np.isin(scene, labels), scene, -1)
    np.testing.assert_array_equal(labels[ids], listed)
    assert (ids[scene == VOID] == 0).all()
    for segment, found in zip(SEGMENTS, data['segments'], strict=True):
        assert (found['name'], found['area']) == (segment.name, segment.area_px)
        assert found['score'] == pytest.approx(segment.score)
    assert data['segments'][0]['color'] == COLORS[0].tolist()


def test_background_is_plain():
    panoptic = np.array([[0, 2001]], np.int32)
    segments = [PageSegment(0, 'background', 1.0, 1), PageSegment(2001, 'background', 1.0, 1)]
    image = np.zeros((1, 2, 3), np.uint8)
    page = make_page(image, panoptic, FORMAT, segments=segments, colors=COLORS, title='')
    assert [segment['plain'] for segment in read_data(page)['segments']] == [True, False]


def test_pages_of_large_pictures_are_small():
    page = make_scene_page(factor=10)
    data = read_data(page)
    assert (data['height'], data['width']) == (1536, 2048) and len(page) < 200_000
    ids = decode_runs(base64.b64decode(data['runs'])).reshape(1536, 2048)
    assert ids[800, 500] == 2 and ids[800, 1200] == 3 and ids[1535, 5] == 0


def test_names_and_titles_are_no_markup():
    page = make_scene_page()
    assert page.count('</script>') == 2
    assert '<b>' not in page and 'a&lt;b&gt;&amp;.jpg' in page
    assert 'http' not in page.replace('http-equiv', '')
    with pytest.raises(ValueError, match='image must be uint8'):
        make_scene_page(image=np.zeros((3, 4, 3), np.uint8))


def open_in_browser(page, script, tmp_path):
    """Opens a page in headless Chromium, runs a script, and returns the text that it leaves."""
    browser = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
    if browser is None:
        pytest.skip('needs Chromium: apt-get install chromium')
    script = f"""
    const errors = [];
    addEventListener('error', event => errors.push(event.message));
    addEventListener('load', () => {{
      const answer = document.createElement('pre');
      answer.id = 'answer';
      answer.textContent = JSON.stringify({{result: (() => {{{script}}})(), errors}});
      document.body.append(answer);
    }});
    """
    path = tmp_path / 'page.html'
    path.write_text(page.replace("<script>\n'use strict';", f'<script>{script}</script><script>'))
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom']
    command += [f'--user-data-dir={tmp_path}/profile', '--window-size=1000,700', path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (text,) = re.findall(r'<pre id="answer">(.*?)</pre>', done.stdout, re.S)
    for mark, character in (('&lt;', '<'), ('&gt;', '>'), ('&amp;', '&')):
        text = text.replace(mark, character)
    answer = json.loads(text)
    assert answer['errors'] == []
    return answer['result']


def test_the_pointer_and_the_keyboard_read_segments(tmp_path):
    script = """
    const point = (x, y) => {
      const rect = get('image').getBoundingClientRect();
      const at = {clientX: rect.left + (x + .5) / width * rect.width,
                  clientY: rect.top + (y + .5) / height * rect.height, bubbles: true};
      get('stage').dispatchEvent(new PointerEvent('pointermove', at));
      return get('tip').textContent;
    };
    const read = [point(5, 5), point(20, 60), point(119, 179), point(120, 100), point(5, 239)];
    const tags = document.querySelectorAll('b').length;
    get('segment-3').focus();
    const focused = get('reading').textContent;
    document.activeElement.dispatchEvent(
      new KeyboardEvent('keydown', {key: 'ArrowDown', bubbles: true}));
    const next = get('reading').textContent;
    const pixel = (id, x, y) => [...get(id).getContext('2d').getImageData(x, y, 1, 1).data];
    document.querySelector('[data-key=area]').click();
    const names = [...document.querySelectorAll('tbody td:first-child')].map(c => c.textContent);
    return {read, tags, focused, next, names, size: [get('image').naturalWidth, width, height],
            sky: pixel('colors', 5, 5), void: pixel('colors', 5, 235), mark: pixel('mark', 5, 130)};
    """
    found = open_in_browser(make_scene_page(), script, tmp_path)
    cow = f'{HOSTILE}, score 50%, 12,000 px'
    sky = 'sky, score 91%, 28,000 px'
    assert found['read'] == [sky, cow, cow, sky, 'void']
    assert found['tags'] == 0
    assert found['focused'] == 'cow, score 100%, 9,600 px'
    assert found['next'] == 'grass, score 25%, 1,234,567 px'
    assert found['names'] == ['grass', 'sky', HOSTILE, 'cow']
    assert found['size'] == [320, 320, 240]
    # Canvases keep colours times alpha, so that they come back rounded.
    np.testing.assert_allclose(found['sky'], [*COLORS[0], 127], atol=3)
    assert found['void'] == [0, 0, 0, 0] and found['mark'][3] > 0


def test_switches_show_and_hide(tmp_path):
    scene = make_scene()
    image = np.full((*scene.shape, 3), 90, np.uint8)
    layers = {'centres': np.full((60, 80, 3), 200, np.uint8), HOSTILE: image}
    page = make_page(
        image, scene, FORMAT, segments=SEGMENTS, colors=COLORS, title='', layers=layers
    )
    things = [segment['thing'] for segment in read_data(page)['segments']]
    assert things == [False, True, True, False]
    script = """
    const pixel = (x, y) => [...get('colors').getContext('2d').getImageData(x, y, 1, 1).data];
    const names = [...document.querySelectorAll('#switches label')].map(l => l.textContent.trim());
    const read = () => ({sky: pixel(5, 5)[3], cow: pixel(60, 60)[3], void: pixel(5, 235)[3]});
    const found = {names, first: read()};
    for (const id of ['things', 'stuff', 'void']) { get(id).click(); found[id] = read(); }
    const tops = () => [...document.querySelectorAll('.layer')].map(layer => layer.alt);
    found.tops = [tops()];
    for (const i of [1, 0, 1]) { get('layer-' + i).click(); found.tops.push(tops()); }
    return found;
    """
    found = open_in_browser(page, script, tmp_path)
    assert found['names'] == ['things', 'stuff', 'void', 'centres', HOSTILE.strip()]
    assert found['first'] == {'sky': 127, 'cow': 127, 'void': 0}
    assert found['things'] == {'sky': 127, 'cow': 0, 'void': 0}
    assert found['stuff'] == {'sky': 0, 'cow': 0, 'void': 0}
    assert found['void']['void'] > 100 and found['void']['sky'] == 0
    assert found['tops'] == [[], [HOSTILE], [HOSTILE, 'centres'], ['centres']]
