"""The size and the style of the code: small modules and functions, annotated, documented."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / 'pdl_jax').rglob('*.py'))
# Folders and modules on top: a reader should hold them in mind.
MAX_ROOMS = 27
MAX_MODULE_LINES = 400
MAX_BODY_LINES = 60
# A docstring starts with a verb or a noun phrase.
BAD_STARTS = re.compile(r'^(What|How|Where|Which|Of)\b')


def list_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def count_body_lines(node):
    """Lines of a function behind its signature and docstring."""
    body = node.body
    is_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    statements = body[1:] if is_docstring and len(body) > 1 else body
    return statements[-1].end_lineno - statements[0].lineno + 1


def list_unannotated(node, is_method):
    arguments = [*node.args.posonlyargs, *node.args.args]
    if is_method and not any(
        isinstance(d, ast.Name) and d.id == 'staticmethod' for d in node.decorator_list
    ):
        arguments = arguments[1:]
    arguments += [*node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
    missing = [a.arg for a in arguments if a.annotation is None]
    return missing + ([] if node.returns is not None or node.name == '__init__' else ['return'])


def find_faults(path):
    text = path.read_text()
    tree = ast.parse(text)
    name = path.relative_to(ROOT)
    if text.count('\n') > MAX_MODULE_LINES:
        yield f'{name}: {text.count(chr(10))} lines'
    methods = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for child in node.body
    }
    for node in list_functions(tree):
        where = f'{name}:{node.lineno} {node.name}'
        if count_body_lines(node) > MAX_BODY_LINES:
            yield f'{where}: {count_body_lines(node)} lines in its body'
        missing = list_unannotated(node, id(node) in methods)
        if missing:
            yield f'{where}: no annotation of {", ".join(missing)}'
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node) or ''
            if BAD_STARTS.match(docstring):
                yield f'{name}: docstring starts with {docstring.splitlines()[0]!r}'
    for node in (tree, *tree.body):
        is_public = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != '_'
        if (is_public or node is tree) and not ast.get_docstring(node):
            yield f'{name}: {getattr(node, "name", "module")} has no docstring'


@pytest.mark.parametrize('folder', sorted({p.relative_to(ROOT).parts[1] for p in MODULES}))
def test_code_is_small_annotated_and_documented(folder):
    paths = [p for p in MODULES if p.relative_to(ROOT).parts[1] == folder]
    faults = [fault for path in paths for fault in find_faults(path)]
    assert not faults, '\n'.join(faults)


def test_the_top_of_the_house_is_small():
    rooms = [p.name for p in (ROOT / 'pdl_jax').iterdir() if p.suffix == '.py' or p.is_dir()]
    rooms = [name for name in rooms if name not in ('__pycache__', 'py.typed')]
    rooms += ['configs', 'launch', 'benchmarks']
    assert len(rooms) <= MAX_ROOMS, sorted(rooms)


def test_the_checker_finds_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(f'{__name__}.ROOT', tmp_path)
    path = tmp_path / 'a.py'
    body = '\n'.join('    x = 1' for _ in range(61))
    path.write_text(f'"""How it is."""\n\ndef f(a):\n{body}\n')
    faults = list(find_faults(path))
    assert any('61 lines in its body' in fault for fault in faults)
    assert any('no annotation of a, return' in fault for fault in faults)
    assert any("starts with 'How" in fault for fault in faults)
    assert any('f has no docstring' in fault for fault in faults)
