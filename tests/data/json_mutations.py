"""Seeded mutations of JSON files: damaged bytes, wrong values in any place, hostile ones."""

import copy
import json
import random
from typing import Any

# Values that a field may hold in files of careless or hostile writers.
_VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 1.0, 1.5, -0.0, 1e308, float('nan'), float('inf'),
    -float('inf'), 2**24, 2**31, 2**63, 2**64, 10**30, 10**400, '', '1', '1.0', ' 1', 'x',
    'x' * 5000, '0' * 300, [], {}, [[]], [0], [None], {'': 0}, {'id': 1}, [{}], '..', '../x.png',
    '/etc/passwd', '%2e%2e/x', 'C:\\x\\000000.png', 'a\0b', '\ud800', 'é', 'e\u0301', '🙂', '1e5',
    '000000.png', '000000.jpg', 'panoptic/000000.png', '.', '/', 'con', '-', '#ffffff', 'true',
]  # fmt: skip
# Parts of the text that no writer of JSON values makes.
_TEXTS = (
    '9' * 5000, '[' * 900 + ']' * 900,
    '[' * 20000, '{"a":' * 5000, 'NaN', '-Infinity', '1e999', '-', '\\ud800', '//',
    '"a": 1, "a": 1', '\x00', '\ufeff', ',', '}', ']', '"', '0x10', '01', '.5', 'nul', '\t',
)  # fmt: skip


def mutate(content: Any, rng: random.Random) -> bytes:
    """Returns the bytes of a file with one to three mutations of some JSON content."""
    if rng.random() < 0.3:
        return _damage(json.dumps(content).encode(), rng)
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(content, rng)
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    return text.encode('utf-8', errors='surrogatepass')


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Damages the text."""
    position = rng.randrange(len(data))
    end = min(len(data), position + rng.choice((1, 2, 10, 100)))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:position]
    if kind == 1:
        return data[:position] + data[end:]
    if kind == 2:
        return data[:position] + rng.randbytes(end - position) + data[end:]
    if kind == 3:
        return data[:end] + data[position:end] + data[end:]
    if kind == 4:
        return data[:position] + rng.choice(_TEXTS).encode() + data[end:]
    encoding = rng.choice(('utf-16', 'utf-32', 'utf-8-sig', 'utf-16-le'))
    return data.decode().encode(encoding)


def _change(content: Any, rng: random.Random) -> None:
    """Changes the value of one place, or the places themselves."""
    places = []
    stack = [content]
    while stack:
        node = stack.pop()
        children = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        places += [(node, key) for key, _ in children]
        stack += [child for _, child in children if isinstance(child, dict | list)]
    if not places:
        return
    node, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1:
        other, other_key = rng.choice(places)
        node[key] = copy.deepcopy(other[other_key])
    elif kind == 2 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), copy.deepcopy(node[key]))
    elif kind == 2 and isinstance(node, dict):
        node[rng.choice(('id', 'name', 'x', key.upper()))] = node.pop(key)
    else:
        node[key] = copy.deepcopy(rng.choice(_VALUES))
