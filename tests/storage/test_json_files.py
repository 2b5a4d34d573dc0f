"""Strict JSON: what is refused is named with its file and field."""

import json
import os
import time

import pytest

from pdl_jax.storage import json_files
from pdl_jax.storage.json_files import describe_value, parse_json, read_json

CONTENT = {'images': [{'id': 1, 'area': 2.5, 'name': 'ü'}], 'flag': True, 'none': None}


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_every_unicode_encoding_is_read(tmp_path, encoding):
    path = tmp_path / 'a.json'
    path.write_bytes(json.dumps(CONTENT, ensure_ascii=False).replace('\n', '\r\n').encode(encoding))
    assert read_json(path) == CONTENT


@pytest.mark.parametrize(
    'text, message',
    [
        ('', r'a\.json is empty'),
        (' \n', r'a\.json is empty'),
        ('{"a": [1, 2', r'a\.json is not valid JSON: Expecting'),
        ('{"a": 1,}', r'a\.json is not valid JSON'),
        ('<html>', r'a\.json is not valid JSON'),
        ('[' * 100_000, r'a\.json is not valid JSON .*nested too deep'),
        ('{"a":' * 100_000, r'nested too deep'),
        ('{"a": [{"b": 1}, {"b": NaN}]}', r'a\.json: a\[1\]\.b is NaN, which JSON does not have'),
        ('{"a": -Infinity}', r'a\.json: a is -Infinity'),
        ('[1, Infinity]', r'a\.json: \[1\] is Infinity'),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', r"a\.json: a has the field 'b' twice"),
        ('{"x": 1, "x": 1}', r"a\.json: the whole has the field 'x' twice"),
        ('{"a": {"b": 1, "b": 2}, "a": 0}', r"a\.json: .* has the field 'b' twice"),
        ('{"a": [{"area": ' + '9' * 5000 + '}]}', r'a\[0\]\.area is an integer of 5000 digits'),
        ('{"a": -' + '9' * 5000 + '}', r'a is an integer of 5001 digits'),
        ('{"a": "\x01"}', r'a\.json is not valid JSON: Invalid control character'),
    ],
)
def test_what_is_refused_is_named(text, message):
    started = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text.encode(), source='a.json')
    assert time.monotonic() - started < 5
    assert len(str(caught.value)) < 300 and '\n' not in str(caught.value)


def test_text_that_is_no_unicode():
    with pytest.raises(ValueError, match=r'a\.json is not valid JSON: no UTF-8 text at byte 7'):
        parse_json('{"a": "ü"}'.encode('latin-1'), source='a.json')


def test_nan_may_be_expected():
    values = parse_json(b'{"a": NaN, "b": Infinity}', source='a.json', allow_nan=True)
    assert values['a'] != values['a'] and values['b'] == float('inf')


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe.json')
    for name in ('pipe.json', 'no.json'):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_json(tmp_path / name)
    path = tmp_path / 'large.json'
    path.write_text('[1, 2, 3]')
    assert read_json(path, max_bytes=9) == [1, 2, 3]
    with pytest.raises(ValueError, match=r'large\.json has 9 bytes, the limit is 8'):
        read_json(path, max_bytes=8)
    assert json_files.MAX_DESCRIPTION_BYTES < 2**30


@pytest.mark.parametrize(
    'value, text',
    [
        (3, '3'),
        (10**400, 'an integer of more than 70 digits'),
        ('x', "'x'"),
        ('x' * 10**6, "'" + 'x' * 76 + "'..."),
        ({}, '{}'),
        ({'id': 1, 'name': 2}, "an object with the fields 'id', 'name'"),
        (
            {str(i): i for i in range(10**4)},
            "an object with the fields '0', '1', '2', '3', '4', ...",
        ),
        ([1, 'a', [2]], "[1, 'a', [...]]"),
        ([0] * 10**6, 'a list of 1000000 values'),
        (float('nan'), 'nan'),
        ('\ud800', r"'\ud800'"),
    ],
)
def test_values_are_described_briefly(value, text):
    assert describe_value(value) == text


def test_deep_values_are_described():
    value = {}
    for _ in range(10_000):
        value = {'a': [value]}
    assert describe_value(value) == "an object with the fields 'a'"
