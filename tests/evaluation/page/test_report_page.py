"""The report page: its numbers are those of the JSON, names are harmless, browsers accept it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.data.images import encode_image
from pdl_jax.evaluation.analysis.causes import CAUSES
from pdl_jax.evaluation.files.file_analysis import FileAnalysis
from pdl_jax.evaluation.files.score_files import evaluate_files
from pdl_jax.evaluation.page.html import Html, format_percent, tag
from pdl_jax.evaluation.page.page import make_page
from pdl_jax.evaluation.page.schema import check_analysis, check_report
from pdl_jax.evaluation.page.scored import Scored
from pdl_jax.evaluation.report import write_report
from pdl_jax.evaluation.report_files import read_evaluation, write_evaluation
from tests.metrics.panoptic_cases import (
    read_reference_cases,
    write_files,
    write_reference_cases,
)

HOSTILE = '</td><script>alert("1")</script><img src=x onerror=alert(2)> & \u202e \'"'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


class Reader(html.parser.HTMLParser):
    """Elements of a page by name with their attributes, and the rows of its tables by section."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.rows, self.cards = [], {}, {}
        self._section, self._value, self._is_in_cell, self._element = '', None, False, ''
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._element = tag
        self.elements.append((tag, attrs))
        if tag == 'section':
            self._section = attrs['id']
        elif tag == 'tr':
            self.rows.setdefault(self._section, []).append([])
        elif tag in ('td', 'th'):
            self._is_in_cell = True
            self.rows[self._section][-1].append([attrs.get('data-value'), ''])
        elif tag == 'b':
            self._value = attrs.get('data-value')

    def handle_endtag(self, tag):
        self._is_in_cell &= tag not in ('td', 'th')
        self._element = ''

    def handle_data(self, data):
        if self._is_in_cell:
            self.rows[self._section][-1][-1][1] += data
        if self._element == 'span' and self._value is not None:
            self.cards[data] = float(self._value)

    def find_row(self, section, name):
        return next(row for row in self.rows[section] if row and row[0][1] == name)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Files of some images, with hostile names of classes and of one image."""
    rng = np.random.default_rng(3)
    maps = []
    for _ in range(10):
        label = np.full((40, 60), 1000, np.int32)
        for i in range(6):
            y, x = rng.integers(0, 30), rng.integers(0, 50)
            label[y : y + 12, x : x + 12] = rng.choice([2, 3]) * 1000 + i + 1
        maps.append((label, np.where(rng.random() < 0.5, np.roll(label, 3, 1), label)))
    labels, predictions = (np.stack(m) for m in zip(*maps, strict=True))
    predictions[:3] = np.where(predictions[:3] // 1000 == 2, predictions[:3] + 1000, 2001)
    scores = [dict.fromkeys(range(5000), 0.1 * i) for i in range(10)]
    folder = tmp_path_factory.mktemp('files')
    located = write_files(folder, labels, predictions, things=(2, 3), stuff=(1,), scores=scores)
    for side in ('gt', 'pred'):
        content = json.loads((folder / f'{side}.json').read_text())
        content['categories'][0]['name'] = HOSTILE
        name = '<b onclick=x>.png'
        (folder / side / '000.png').rename(folder / side / name)
        content['annotations'][0]['file_name'] = name
        (folder / f'{side}.json').write_text(json.dumps(content))
    (folder / 'images').mkdir()
    for png in (folder / 'gt').iterdir():
        (folder / 'images' / png.name).write_bytes(
            encode_image(rng.integers(0, 255, (40, 60, 3), np.uint8))
        )
    return located, folder


@pytest.fixture(scope='module')
def scored(files):
    analysis = FileAnalysis(files[1] / 'images')
    report, categories = evaluate_files(**files[0], analysis=analysis)
    names = dict(zip(categories.keys, categories.names, strict=True))
    return Scored('run <A> & co', report, analysis.values, class_names=names)


@pytest.fixture(scope='module')
def page(scored):
    return make_page(scored)


@pytest.mark.parametrize('name', ['coco', 'voc'])
def test_parts_of_the_reference_cases_add_up_to_the_loss_of_panopticapi(name, tmp_path):
    reference = read_reference_cases(name)
    analysis = FileAnalysis()
    evaluate_files(**write_reference_cases(tmp_path, reference), metrics=('pq',), analysis=analysis)
    loss, expected = analysis.values['loss'], reference.expected['pq']
    for index, row in expected['per_class'].items():
        parts = loss['per_class'].get(str(reference.categories[int(index)]))
        if parts is None:
            assert not row['pq']
        else:
            assert sum(parts.values()) == pytest.approx(1 - row['pq'], abs=1e-9)
    for group in ('All', 'Things', 'Stuff'):
        if expected[group]['n']:
            lost = 1 - expected[group]['pq']
            assert sum(loss[group].values()) == pytest.approx(lost, abs=1e-9)


def test_numbers_equal_the_report(scored, page):
    reader, report = Reader(page), scored.report
    assert reader.cards['PQ'] == report['pq']['All']['pq']
    assert reader.cards['PQ things'] == report['pq']['Things']['pq']
    assert reader.cards['mIoU'] == report['miou']
    assert reader.cards['AP'] == report['ap']['ap']
    titles = [text for _, text in reader.rows['classes'][0]]
    assert titles == ['class', 'PQ', 'SQ', 'RQ', 'TP', 'FP', 'FN', 'AP', 'PC', 'IoU']
    for key, row in report['pq']['per_class'].items():
        cells = reader.find_row('classes', scored.class_names[key])
        values = [*row.values(), report['iou_per_class'][key]]
        shown = [float(cells[i][0]) for i in (*range(1, 7), -1)]
        assert shown == values
        assert cells[1][1] == format_percent(row['pq'])
        # Stuff has no AP: a dash, which no sorting takes for a number.
        if key == '1':
            assert cells[7] == [None, '–']


def test_parts_on_the_page_add_up_to_what_is_lost(scored, page):
    reader = Reader(page)
    rows = [row for row in reader.rows['loss'][1:] if row]
    assert len(rows) == 3 + 3
    for row in rows:
        quality, lost, *parts = (float(value) for value, _ in row[1:-1])
        assert len(parts) == len(CAUSES)
        assert sum(parts) == pytest.approx(lost, abs=1e-9)
        assert quality + lost == pytest.approx(1, abs=1e-9)


def test_names_are_harmless(page):
    reader = Reader(page)
    assert [attrs for tag, attrs in reader.elements if tag == 'script'] == [{}]
    assert not any(key.startswith('on') for _, attrs in reader.elements for key in attrs)
    images = [attrs['src'] for tag, attrs in reader.elements if tag == 'img']
    assert images and all(src.startswith('data:image/jpeg;base64,') for src in images)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert 'run &lt;A&gt; &amp; co' in page
    assert HOSTILE in [row[0][1] for row in reader.rows['classes'] if row]
    assert tag('p', '<', Html('<i></i>'), title='"') == '<p title="&quot;">&lt;<i></i></p>'


def test_worst_and_best_images_are_shown(scored):
    pictures = scored.analysis['pictures']
    assert [p['kind'] for p in pictures] == ['worst'] * 4 + ['best'] * 4
    scores = [s for s in scored.analysis['images']['score']]
    assert [p['score'] for p in pictures[:4]] == sorted(scores)[:4]
    assert [p['score'] for p in pictures[4:]] == sorted(scores)[:-5:-1]
    assert all(list(p['panels']) == ['image', 'truth', 'prediction', 'errors'] for p in pictures)


def test_stored_evaluations_are_read_again_and_compared(scored, tmp_path, capsys):
    for name, step in (('a', 7), ('a', 30), ('b', None)):
        report = {'step': step or 9, **scored.report}
        write_evaluation(report, scored.analysis, tmp_path / name, step=step)
    (tmp_path / 'a' / 'metrics.jsonl').write_text(
        '{"step": 5, "loss": 2.5, "eval/pq": null}\n{"step": 10, "loss": 1.5}\n{"st'
    )
    assert sorted(p.name for p in (tmp_path / 'a').glob('*.html')) == [
        'report_30.html', 'report_7.html',
    ]  # fmt: skip
    again, path = read_evaluation(tmp_path / 'a')
    assert path.name == 'report_30.json' and again.analysis == json.loads(
        json.dumps(scored.analysis)
    )
    assert again.curves == {'loss': ([5.0, 10.0], [2.5, 1.5])}
    for step, expected in ((31, 'report.json'), (30, 'report_30.json'), (None, 'report_30.json')):
        # That of a training which has gone on since, and of one that was evaluated since.
        write_report({**scored.report, 'step': step}, str(tmp_path / 'a' / 'report.json'))
        assert read_evaluation(tmp_path / 'a')[1].name == expected
    (tmp_path / 'a' / 'report.json').unlink()
    main(['report', f'--workdir={tmp_path}/a', f'--compare={tmp_path}/b'])
    assert f'wrote {tmp_path}/a/comparison.html' in capsys.readouterr().out
    reader = Reader((tmp_path / 'a' / 'comparison.html').read_text())
    quality, other, difference = reader.find_row('difference', 'PQ')[1:]
    assert float(quality[0]) == float(other[0]) == scored.report['pq']['All']['pq']
    assert float(difference[0]) == 0
    assert 'curves' in [attrs.get('id') for _, attrs in reader.elements]


def test_differences_are_those_of_the_scores(scored):
    better = json.loads(json.dumps(scored.analysis))
    better['images']['score'][0] += 0.125
    other = Scored('other', scored.report, scored.analysis, class_names=scored.class_names)
    first = Scored('first', scored.report, better, class_names=scored.class_names)
    reader = Reader(make_page(first, other))
    row = reader.find_row('image-difference', scored.analysis['images']['file_name'][0])
    assert float(row[3][0]) == pytest.approx(0.125)


def spoil(values, path, value):
    values = json.loads(json.dumps(values))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        (('version',), 2),
        (('images', 'score', 0), '<script>'),
        (('images', 'tp'), []),
        (('confusion', 0), [0, 99, 1]),
        (('classes',), 'many'),
        (('loss', 'All', 'missed'), None),
        (('loss', 'per_class'), [1]),
        (('pictures', 0, 'panels', 'truth'), '" onerror="x'),
        (('pictures', 0, 'kind'), 'good'),
        (('error_colors', 'void'), 'url(x)'),
        (('sizes', 'coco', 0, 'min_px'), 1.5),
        (('calibration', 'ece'), True),
    ],
)
def test_damaged_analyses_are_refused(scored, path, value):
    check_analysis(json.loads(json.dumps(scored.analysis)), source='a.json')
    with pytest.raises(ValueError, match='a.json: .* evaluate again'):
        check_analysis(spoil(scored.analysis, path, value), source='a.json')


def test_damaged_reports_are_refused(scored):
    check_report(json.loads(json.dumps(scored.report)), source='r.json')
    for path, value in ((('miou',), 'x'), (('pq', 'All', 'pq'), []), (('num_images',), -1)):
        with pytest.raises(ValueError, match=f'r.json: {".".join(path)} is not'):
            check_report(spoil(scored.report, path, value), source='r.json')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--workdir=nowhere'], 'nowhere does not exist: give the workdir of a run'),
        (['--workdir={}'], r'report.json does not exist.*pdl_jax evaluate --workdir='),
        (['--workdir={}', '--step=3'], r'report_3.json does not exist.*--step=3'),
        (['--workdir={}', '--compare_step=3'], '--compare_step needs --compare or --step'),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        main(['report', *(word.format(tmp_path) for word in words)])
    errors = capsys.readouterr().err
    assert re.search(message, errors) and errors.count('\n') == 1


def test_score_writes_the_page(files, tmp_path, capsys):
    located, folder = files
    flags = [f'--{key}={value}' for key, value in located.items()]
    page = tmp_path / 'page.html'
    main(['score', *flags, f'--report={page}', '--num_processes=1'])
    reader = Reader(page.read_text())
    assert reader.cards['PQ'] > 0
    assert 'image' not in page.read_text().split('alt="')[1].split()[0]
    with pytest.raises(SystemExit):
        main(['score', *flags, f'--images={folder / "images"}'])
    assert '--images is for the pictures of the page' in capsys.readouterr().err


def open_in_browser(file, profile):
    """Opens a file in headless Chromium; returns what its console says and the elements."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip('Chromium is not installed')
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr']
    flags += ['--virtual-time-budget=2000', f'--user-data-dir={profile}', '--dump-dom']
    result = subprocess.run(
        [browser, *flags, f'file://{file}'],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    console = [line for line in result.stderr.splitlines() if 'CONSOLE' in line]
    return console, Reader(result.stdout)


def test_browser_opens_it_without_an_error(scored, page, tmp_path):
    (tmp_path / 'page.html').write_text(page)
    console, shown = open_in_browser(tmp_path / 'page.html', tmp_path / 'profile')
    assert not console
    assert shown.cards['PQ'] == scored.report['pq']['All']['pq']
    assert shown.find_row('classes', HOSTILE)


def test_policy_stops_other_scripts(page, tmp_path):
    bad = page.replace('</main>', '</main><script>document.body.textContent = "bad"</script>')
    (tmp_path / 'page.html').write_text(bad)
    console, shown = open_in_browser(tmp_path / 'page.html', tmp_path / 'profile')
    assert any('Content Security Policy' in line for line in console)
    assert shown.cards


def test_click_on_a_title_sorts(page, tmp_path):
    """A second script needs a copy without the policy."""
    script = """
        const log = document.createElement('p');
        for (const column of [1, 1, 7, 0]) {
          document.querySelectorAll('#classes th button')[column].click();
          const rows = [...document.querySelectorAll('#classes tbody:last-child tr')];
          const cells = rows.map((row) => row.cells[column]);
          log.append(JSON.stringify(cells.map((c) => c.dataset.value ?? c.dataset.text ?? null)));
          log.append('|');
        }
        log.title = log.textContent;
        document.body.append(log);
    """
    copy = re.sub(r'<meta http-equiv[^>]*>', '', page)
    copy = copy.replace('</body>', f'<script>{script}</script></body>')
    (tmp_path / 'page.html').write_text(copy)
    console, shown = open_in_browser(tmp_path / 'page.html', tmp_path / 'profile')
    assert not console
    log = next(a['title'] for tag, a in shown.elements if tag == 'p' and '|' in a.get('title', ''))
    falling, rising, precisions, names = (json.loads(part) for part in log.split('|')[:-1])
    numbers = [float(value) for value in falling]
    assert numbers == sorted(numbers, reverse=True) and rising == falling[::-1]
    # Classes without a number come last.
    assert precisions[-1] is None and float(precisions[0]) >= float(precisions[1])
    assert names == sorted(names) and len(names) == 3
