"""The documentation site: built without warnings, and complete without a network."""

import html.parser
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from tests import tiny

# Hosts are unreachable from the process that builds.
_NO_NETWORK = {'http_proxy': 'http://127.0.0.1:9', 'https_proxy': 'http://127.0.0.1:9'}


class Page(html.parser.HTMLParser):
    """The anchors of a page, its links, and the files that a browser loads for it."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values.get('id'), values.get('name')}
        if tag == 'a' and 'href' in values:
            self.links.append(values['href'])
        elif tag == 'link' and values.get('rel') != 'canonical':
            self.loaded.append(values['href'])
        elif 'src' in values:
            self.loaded.append(values['src'])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    if importlib.util.find_spec('zensical') is None:
        pytest.skip('needs pip install -r requirements-docs.txt')
    folder = tmp_path_factory.mktemp('site')
    # Zensical follows no links.
    ignored = shutil.ignore_patterns('__pycache__', 'weights')
    for name in ('docs', 'pdl_jax'):
        shutil.copytree(tiny.ROOT / name, folder / name, ignore=ignored)
    shutil.copy(tiny.ROOT / 'mkdocs.yml', folder)
    zensical = pathlib.Path(sys.executable).parent / 'zensical'
    built = subprocess.run(
        [zensical, 'build', '--strict', '--clean'],
        cwd=folder,
        env={'PATH': str(zensical.parent), **_NO_NETWORK},
        capture_output=True,
        text=True,
    )
    output = built.stdout + built.stderr
    assert built.returncode == 0, output
    assert not re.search(r'warning|error|griffe', output, re.IGNORECASE), output
    return folder / 'site'


@pytest.fixture(scope='module')
def pages(site):
    return {path: Page(path) for path in site.rglob('*.html')}


def test_every_document_is_a_page(site, pages):
    documents = (p.relative_to(tiny.ROOT / 'docs') for p in (tiny.ROOT / 'docs').rglob('*.md'))
    files = {(site / name.with_suffix('.html')).resolve() for name in documents}
    # Some page leads to each.
    linked = {
        (path.parent / urllib.parse.urldefrag(link)[0]).resolve()
        for path, page in pages.items()
        for link in page.links
    }
    assert files <= linked and files <= {path.resolve() for path in pages}


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        for source in page.loaded:
            if source.startswith('data:'):
                continue
            assert not urllib.parse.urlparse(source).netloc, f'{path.name} loads {source}'
            assert (path.parent / urllib.parse.urldefrag(source)[0]).exists() or '404' in path.name


def test_links_lead_somewhere(site, pages):
    for path, page in pages.items():
        if path.name == '404.html':
            continue
        for link in page.links:
            target, anchor = urllib.parse.urldefrag(link)
            if urllib.parse.urlparse(target).scheme:
                continue
            file = (path.parent / urllib.parse.unquote(target)).resolve() if target else path
            file = file / 'index.html' if file.is_dir() else file
            assert file.exists(), f'{path.name} links to {link}'
            if anchor and file in pages:
                assert urllib.parse.unquote(anchor) in pages[file].anchors, f'{path.name}: {link}'


def test_the_reference_has_the_docstrings(site):
    text = (site / 'reference' / 'systems.html').read_text()
    assert 'pdl_jax.systems.system' in text and 'Runs the network on f32[B, H, W, C]' in text
