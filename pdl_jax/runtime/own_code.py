"""Code of the user's own that a configuration names as 'module:function'.

Importing a module executes it. So only two import: the front door, for the configuration that the
user gives to a command, and whoever the user tells to trust a checkpoint (`--allow_code`). All
others look names up among those that were imported; a name in a checkpoint imports nothing.
"""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pdl_jax.typing import suggest

# Imported functions by 'module:function'.
_FUNCTIONS: dict[str, Callable[..., Any]] = {}
# Names of modules that were imported from a folder of the user's.
_OWN_MODULES: set[str] = set()
# Sections of a configuration with a tuple `extra` of functions.
_EXTRA_SECTIONS = ('loss', 'augment')
# Sections that may name functions.
CODE_SECTIONS = ('model', *_EXTRA_SECTIONS)


def list_own_code(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists the functions that a configuration names.

    Args:
      values: the sections of a configuration, of any origin.

    Returns:
      (field, 'module:function') pairs, such as ('config.model.backbone', 'nets:make_backbone').
    """
    named: list[tuple[str, Any]] = []
    model = values.get('model')
    if isinstance(model, Mapping):
        named.append(('config.model.backbone', model.get('backbone')))
    for section in _EXTRA_SECTIONS:
        fields = values.get(section)
        extra = fields.get('extra') if isinstance(fields, Mapping) else None
        if isinstance(extra, list | tuple):
            named += [(f'config.{section}.extra', name) for name in extra]
    return [(field, name) for field, name in named if isinstance(name, str) and ':' in name]


def import_own_code(
    named: Iterable[tuple[str, str]], folders: Sequence[str | os.PathLike] = ()
) -> None:
    """Imports functions, so that `find_own_code` finds them; executes their modules.

    Args:
      named: see `list_own_code`.
      folders: where modules are looked for before the installed ones, the working directory last.

    Raises:
      ValueError: a module is missing or cannot be imported, or has no such function.
    """
    places = list(dict.fromkeys(pathlib.Path(folder).resolve() for folder in (*folders, '.')))
    for field, name in named:
        where = f'{field} (={name!r})'
        module_name, _, function_name = name.partition(':')
        module = _import_module(where, module_name, places)
        function = getattr(module, function_name, None)
        if not callable(function):
            hint = suggest(function_name, [key for key in vars(module) if key[0] != '_'])
            raise ValueError(f'{where}: {module.__file__} has no function {function_name}; {hint}')
        _FUNCTIONS[name] = function


def are_imported(named: Iterable[tuple[str, str]]) -> bool:
    """Tells if all functions of `list_own_code` were imported."""
    return all(name in _FUNCTIONS for _, name in named)


def find_own_code(field: str, name: str) -> Callable[..., Any]:
    """Looks a function up that was imported.

    Args:
      field: the field of the configuration, for the message.
      name: 'module:function'.

    Raises:
      ValueError: it was not imported.
    """
    if name not in _FUNCTIONS:
        raise ValueError(
            f'{field} (={name!r}) is code that does not come with pdl_jax, and a checkpoint alone '
            f'must not run any: if you trust it, pass --allow_code (in Python allow_code=True) in '
            f'the folder of {name.partition(":")[0]}.py, or --config=FILE that names it'
        )
    return _FUNCTIONS[name]


def _import_module(where: str, name: str, places: Sequence[pathlib.Path]) -> Any:
    file = _find_file(name, places)
    loaded = sys.modules.get(name)
    if file is not None and loaded is not None and getattr(loaded, '__file__', None) != str(file):
        if name not in _OWN_MODULES:
            raise ValueError(f'{where}: {file} has the name of a module in use: rename it')
        # One of the same name, beside another configuration.
        del sys.modules[name]
    try:
        with _importable(file, name):
            module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition('.')[0]
        if is_missing and file is None:
            folders = ' or '.join(map(str, places))
            raise ValueError(
                f'{where}: there is no module {name}: put {name.replace(".", "/")}.py into '
                f'{folders}, or install it'
            ) from error
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(f'{where}: {file or name} cannot be imported: {reason}') from error
    if file is not None:
        _OWN_MODULES.add(name)
    return module


def _find_file(name: str, places: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Finds the file of a module in the first folder that has it."""
    path = name.replace('.', '/')
    for place in places:
        for file in (place / f'{path}.py', place / path / '__init__.py'):
            if file.is_file():
                return file
    return None


@contextlib.contextmanager
def _importable(file: pathlib.Path | None, name: str) -> Iterator[None]:
    """Lets a module import those beside it."""
    if file is None:
        yield
        return
    levels = name.count('.') + (2 if file.name == '__init__.py' else 1)
    folder = str(file.parents[levels - 1])
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
