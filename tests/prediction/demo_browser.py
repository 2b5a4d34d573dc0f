"""Headless Chromium for the page of the demo, driven by Selenium."""

import contextlib
import importlib.util
import json
import pathlib
import shutil
import urllib.parse
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def open_browser(downloads: pathlib.Path) -> Iterator:
    """Starts a browser until the end of the block; skips where there is none."""
    driver = shutil.which('chromedriver')
    browser = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
    if importlib.util.find_spec('selenium') is None or None in (driver, browser):
        pytest.skip('needs pip install selenium, apt-get install chromium chromium-driver')
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--window-size=1400,900',
        # A camera that shows a test picture.
        '--use-fake-device-for-media-stream',
        '--use-fake-ui-for-media-stream',
    ):
        options.add_argument(flag)
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def list_hosts(browser) -> set[str]:
    """Lists the hosts that the browser asked for anything since it was last asked."""
    hosts = set()
    for entry in browser.get_log('performance'):
        message = json.loads(entry['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            url = urllib.parse.urlsplit(message['params']['request']['url'])
            if url.scheme.startswith(('http', 'ws')):
                hosts.add(url.netloc)
    return hosts


def list_errors(browser) -> list[str]:
    """Lists the errors on the browser's console since it was last asked."""
    return [e['message'] for e in browser.get_log('browser') if e['level'] == 'SEVERE']
