"""The page and its API: uploads good and bad are answered, and the server stays up."""

import concurrent.futures
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main
from pdl_jax.convert.write import write_checkpoint
from pdl_jax.data.records import open_split
from pdl_jax.prediction.demo_server import Guard, open_socket
from pdl_jax.prediction.inference import abstract_variables
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.uploads import UploadLimits, predict_upload
from tests import tiny
from tests.prediction import bad_uploads, demo_browser
from tests.process_group import BARE_NETWORK

LIMITS = UploadLimits(max_bytes=2**24, max_pixels=10**6)
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec('gradio') is None, reason="needs pip install 'pdl_jax[demo]'"
)


@pytest.fixture(scope='module')
def checkpoint(data, tmp_path_factory):
    """A network with random variables, which finds something everywhere."""
    experiment = tiny.make_experiment(data, **BARE_NETWORK)
    spec = open_split(data, 'val').spec
    rng = np.random.default_rng(3)
    variables = jax.tree.map(
        lambda x: (
            rng.uniform(-1, 1, x.shape).astype(np.float32)
            if x.ndim > 1
            else x.dtype.type(1) + np.zeros(x.shape, np.float32)
        ),
        abstract_variables(experiment.make_system(spec.label_format)),
    )
    workdir = tmp_path_factory.mktemp('demo')
    description = {'config': experiment.to_json(), 'dataset': spec.to_dict()}
    write_checkpoint(str(workdir), variables, description)
    return str(workdir)


@pytest.fixture(scope='module')
def predictor(checkpoint):
    return Predictor.load(checkpoint)


@pytest.fixture(scope='module')
def server(predictor, tmp_path_factory):
    """The address of a server in a thread of this process."""
    from pdl_jax.prediction.demo import make_demo
    from pdl_jax.prediction.demo_server import make_server

    folder = tmp_path_factory.mktemp('uploads')
    with pytest.MonkeyPatch.context() as patch:
        for name in ('GRADIO_ANALYTICS_ENABLED', 'HF_HUB_DISABLE_TELEMETRY', 'GRADIO_TEMP_DIR'):
            # Set by the page; set here so that the old value comes back.
            patch.setenv(name, '')
        listener = open_socket('127.0.0.1', 0)
        port = listener.getsockname()[1]
        blocks = make_demo(predictor, LIMITS, title='toy <b>', folder=str(folder))
        server = make_server(blocks, host='127.0.0.1', port=port, max_bytes=LIMITS.max_bytes)
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
        thread.start()
        yield f'http://127.0.0.1:{port}'
        server.should_exit = True
        thread.join()


def send(url, body=None, **headers):
    """Sends a request; returns the body of the answer."""
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read()


def upload(server, name, content):
    """Uploads a file; returns the path that the server gave it."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b'\r\n--x--\r\n'
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    return json.loads(send(f'{server}/gradio_api/upload', body, **kind))[0]


def call(server, path, overlay=False):
    """Calls the endpoint; returns the values, or the message of the error."""
    file = {'path': path, 'meta': {'_type': 'gradio.FileData'}}
    body = json.dumps({'data': [file, overlay]}).encode()
    url = f'{server}/gradio_api/call/predict'
    event = json.loads(send(url, body, **{'Content-Type': 'application/json'}))['event_id']
    last = send(f'{url}/{event}').decode().strip().rpartition('event: ')[2]
    kind, _, data = last.partition('\ndata: ')
    if kind == 'complete':
        return json.loads(data)
    assert kind == 'error'
    return json.loads(data)['error']


def predict(server, name, content, **options):
    return call(server, upload(server, name, content), **options)


def fetch(server, file):
    return send(f'{server}/gradio_api/file={file["path"]}')


@needs_gradio
def test_programs_get_what_the_predictor_says(server, predictor, tmp_path):
    content = bad_uploads.encode(Image.fromarray(bad_uploads.make_photo()), 'PNG')
    (tmp_path / 'photo.png').write_bytes(content)
    expected = predictor(tmp_path / 'photo.png')
    assert expected.segments
    segments, ids, overlay = predict(server, 'photo.png', content, overlay=True)
    assert segments == json.loads(expected.encode('json'))
    assert fetch(server, ids) == expected.encode('ids')
    assert ids['orig_name'] == 'photo_panoptic.png'
    assert fetch(server, overlay) == expected.encode('overlay')


@needs_gradio
@pytest.mark.parametrize('name', bad_uploads.make_unusual())
def test_unusual_images_are_predicted(server, name):
    content, (height, width) = bad_uploads.make_unusual()[name]
    segments, ids, overlay = predict(server, name, content)
    assert (segments['file_name'], segments['height'], segments['width']) == (name, height, width)
    assert Image.open(io.BytesIO(fetch(server, ids))).size == (width, height)
    assert overlay is None


@needs_gradio
def test_bad_uploads_are_answered_in_one_sentence(server):
    for name, (content, answer) in bad_uploads.make_refused().items():
        error = predict(server, name, content)
        assert isinstance(error, str) and answer in error
        assert '/' not in error.replace('JPEG/PNG/BMP/WEBP/TIFF', '') and '\n' not in error
    assert predict(server, 'a.png', bad_uploads.make_unusual()['clear.png'][0])[0]['segments']


@needs_gradio
def test_a_hundred_at_once_are_answered(server):
    good = bad_uploads.make_unusual()['clear.png'][0]

    def ask(i):
        is_good = i % 4 > 0
        return is_good, predict(server, f'{i}.png', good if is_good else b'x')

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(ask, range(100)))
    assert all(isinstance(answer, list) == is_good for is_good, answer in answers)
    assert sum(is_good for is_good, _ in answers) == 75


@needs_gradio
@pytest.mark.parametrize('path', ['http://127.0.0.1:9/a.png', '/etc/passwd', '../../etc/passwd'])
def test_only_what_was_uploaded_is_read(server, path):
    error = call(server, path)
    assert isinstance(error, str) or error is None
    with pytest.raises(urllib.error.HTTPError) as caught:
        send(f'{server}/gradio_api/file={path}')
    assert caught.value.code == 403


@needs_gradio
def test_long_bodies_are_refused(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        upload(server, 'a.png', bytes(LIMITS.max_bytes + 2**17))
    assert caught.value.code == 413
    assert b'the limit is' in caught.value.read()


@needs_gradio
@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-m', 'pdl_jax', 'demo', '--checkpoint=scenes', '--port=0'],
        cwd=tiny.ROOT,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'TMPDIR': str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r'http://127\.0\.0\.1:\d+', process.stdout.readline())[0]
        assert predict(address, 'a.png', b'x').startswith('a.png: not a readable')
        assert list(tmp_path.glob('pdl_jax_demo_*/*/a.png'))
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        assert not list(tmp_path.glob('pdl_jax_demo_*'))
    finally:
        process.kill()


@needs_gradio
def test_the_page_in_a_browser(server, predictor, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    Image.fromarray(bad_uploads.make_photo()).save(tmp_path / 'photo.png')
    (tmp_path / 'notes.png').write_text('no image')
    result = predictor(tmp_path / 'photo.png')
    with demo_browser.open_browser(tmp_path / 'downloads') as browser:
        wait = WebDriverWait(browser, 60).until
        find = browser.find_elements
        browser.get(server)
        (chooser,) = wait(lambda _: find(By.CSS_SELECTOR, 'input[type=file]'))
        chooser.send_keys(str(tmp_path / 'photo.png'))
        (frame,) = wait(lambda _: find(By.CSS_SELECTOR, '#view iframe'))
        browser.switch_to.frame(frame)
        stage = browser.find_element(By.ID, 'stage')
        y, x = 30, 20
        height, width = result.panoptic.shape
        pixels = [
            round(((x + 0.5) / width - 0.5) * stage.size['width']),
            round(((y + 0.5) / height - 0.5) * stage.size['height']),
        ]
        here = [s for s in result.segments if s.label == result.panoptic[y, x]]

        def point(_):
            ActionChains(browser).move_to_element_with_offset(stage, *pixels).perform()
            ActionChains(browser).move_by_offset(1, 0).perform()
            return browser.find_element(By.ID, 'reading').text

        reading = wait(point)
        if here:
            assert reading.startswith(f'{here[0].class_name}, score {100 * here[0].score:.0f}%')
            assert f'{here[0].area_px:,} px' in reading
        else:
            assert reading == 'void'
        names = [label.text.strip() for label in find(By.CSS_SELECTOR, '#switches label')]
        assert names[-3:] == ['void', 'centres', 'offsets']
        browser.find_element(By.ID, 'layer-0').click()
        assert find(By.CSS_SELECTOR, '.layer[alt=centres]')
        browser.switch_to.default_content()
        for text, name in (
            ('Overlay', 'photo_overlay.png'),
            ('Ids', 'photo_panoptic.png'),
            ('JSON', 'photo.json'),
        ):
            browser.find_element(By.XPATH, f'//button[normalize-space()="{text}"]').click()
            wait(lambda _, path=tmp_path / 'downloads' / name: path.exists())
        contents = {path.name: path.read_bytes() for path in (tmp_path / 'downloads').iterdir()}
        assert contents['photo_panoptic.png'] == result.encode('ids')
        assert contents['photo_overlay.png'] == result.encode('overlay')
        assert json.loads(contents['photo.json'])['segments'] == result.to_json()
        assert not demo_browser.list_errors(browser)
        assert demo_browser.list_hosts(browser) == {server.removeprefix('http://')}
        browser.get(server)
        (chooser,) = wait(lambda _: find(By.CSS_SELECTOR, 'input[type=file]'))
        chooser.send_keys(str(tmp_path / 'notes.png'))
        (failed,) = wait(lambda _: find(By.CSS_SELECTOR, '#view .failed'))
        assert failed.text.startswith('notes.png: not a readable')


def test_messages_name_no_folder(predictor, tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r'^a\.png has 100 bytes, the limit is 99'):
        predict_upload(predictor, str(path), UploadLimits(max_bytes=99))
    with pytest.raises(ValueError, match=r'^b\.png cannot be read: upload it again$'):
        predict_upload(predictor, str(tmp_path / 'b.png'), LIMITS)
    with pytest.raises(ValueError, match=r'max_pixels \(=0\) must be at least 1'):
        UploadLimits(max_pixels=0)


def test_guard_ends_bodies_without_a_length():
    messages = []

    async def app(scope, receive, send):
        while (message := await receive())['type'] == 'http.request':
            messages.append(len(message['body']))
        messages.append(message['type'])

    async def receive():
        return {'type': 'http.request', 'body': bytes(40), 'more_body': True}

    request = Guard(app, 100)({'type': 'http', 'path': '/', 'headers': []}, receive, None)
    with pytest.raises(StopIteration):
        request.send(None)
    assert messages == [40, 40, 'http.disconnect']


def test_mistakes_are_told_in_one_line(capsys, monkeypatch, checkpoint):
    taken = open_socket('127.0.0.1', 0)
    port = taken.getsockname()[1]
    monkeypatch.setattr('pdl_jax.prediction.demo.import_gradio', lambda folder: None)
    for words, message in (
        ([f'--port={port}'], f'cannot serve at 127.0.0.1:{port}: Address already in use: choose'),
        (['--port=70000'], 'must lie in [0, 65535]'),
        (['--host=a b'], 'cannot serve at a b:7860: Name or service not known: choose'),
        (['--max_megabytes=0'], 'max_bytes (=0) must be at least 1'),
    ):
        with pytest.raises(SystemExit) as caught:
            main(['demo', f'--checkpoint={checkpoint}', *words])
        errors = capsys.readouterr().err
        assert caught.value.code == 2 and message in errors and errors.count('error:') == 1
    taken.close()
