"""The rule by which goldens of whole networks draw their weights and pictures."""

import functools
import importlib.util
import pathlib
import types


@functools.cache
def load_rule(shared_dir: pathlib.Path) -> types.ModuleType:
    """Loads the rule: `draw`, `value` and `image`, see the reference data."""
    spec = importlib.util.spec_from_file_location('golden_rule', shared_dir / 'golden' / 'rule.py')
    assert spec is not None and spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule
