"""Configurations on the command line: --config=FILE or --config=NAME, and --config.field=value."""

import argparse
import contextlib
import difflib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_type_hints

import pdl_jax

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from pdl_jax.experiment import Experiment

# Beside the package, in a checkout and installed.
_ROOT = pathlib.Path(pdl_jax.__file__).resolve().parents[1]


def add_config_flag(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Adds --config; the front door hands --config.field=value on beside it."""
    parser.add_argument(
        '--config',
        default='',
        required=is_required,
        metavar='FILE',
        help='a configuration file, or the name of one that comes with the package, such as coco; '
        '--config.field=value sets a field, configs/common.py lists them',
    )


def load_config(name: str, overrides: list[str] | None = None) -> 'ConfigDict':
    """Runs a configuration and sets fields.

    Args:
      name: a file, or the name of a configuration of the package; FILE.py:ARGUMENT hands an
        argument to its get_config.
      overrides: words such as '--config.train.batch_size=8'.

    Returns:
      A ConfigDict.

    Raises:
      FileNotFoundError: there is no such configuration.
      ValueError: the file cannot be run, a field is unknown or of another type, or code of the user
        that it names cannot be imported.
    """
    from pdl_jax.runtime.own_code import import_own_code, list_own_code

    config, file = _run_file(name)
    _add_open_fields(config)
    config = _override(config, overrides or [])
    import_own_code(list_own_code(config.to_dict()), [file.parent])
    return config


def load_experiment(flags: argparse.Namespace) -> 'Experiment':
    """Makes the experiment of parsed flags, logging what the preset decides."""
    from absl import logging

    from pdl_jax.experiment import Experiment, list_preset_values

    config = load_config(flags.config, flags.config_overrides)
    experiment = Experiment.from_config(config)
    values = list_preset_values(config.to_dict(), experiment)
    words = ', '.join(f'{field}={value!r}' for field, value in values.items())
    logging.info('the preset %s sets %s', experiment.preset, words)
    return experiment


def override_experiment(experiment: 'Experiment', overrides: list[str]) -> 'Experiment':
    """Sets fields of an experiment, such as a checkpoint's, by words of the command line.

    Args:
      experiment: is not changed.
      overrides: words such as '--config.train.batch_size=8'.

    Raises:
      ValueError: a field is unknown or of another type, or has a value that it cannot have, or code
        that it names cannot be imported.
    """
    if not overrides:
        return experiment
    from ml_collections import ConfigDict

    from pdl_jax.experiment import Experiment
    from pdl_jax.runtime.own_code import import_own_code, list_own_code

    before = experiment.to_dict()
    config = ConfigDict(before)
    _add_open_fields(config)
    config = _override(config.lock(), overrides)
    # The user's words may name code of theirs, unlike the checkpoint.
    known = list_own_code(before)
    import_own_code([named for named in list_own_code(config.to_dict()) if named not in known])
    return Experiment.from_config(config)


def _run_file(name: str) -> tuple[Any, pathlib.Path]:
    """Runs the get_config of a configuration; returns its result and the file."""
    path, _, argument = name.partition('.py:')
    file = _find_file(f'{path}.py' if argument else name)
    spec = importlib.util.spec_from_file_location(f'{file.stem}_config', file)
    if spec is None or spec.loader is None:
        raise ValueError(f'--config={name} is no Python file')
    module = importlib.util.module_from_spec(spec)
    with _importable(file):
        try:
            spec.loader.exec_module(module)
            return module.get_config(*([argument] if argument else [])), file
        except Exception as error:
            reason = f'{type(error).__name__}: {error}'
            raise ValueError(f'the configuration {file} cannot be run: {reason}') from error


def _find_file(name: str) -> pathlib.Path:
    file = pathlib.Path(name).expanduser()
    if file.is_file():
        return file
    # configs/coco.py also means the package's where the working directory has no such file.
    packaged = _ROOT / 'configs' / f'{pathlib.Path(name).stem}.py'
    is_name = pathlib.Path(name).parent in (pathlib.Path('.'), pathlib.Path('configs'))
    if is_name and packaged.is_file() and packaged.stem not in ('__init__', 'common'):
        return packaged
    names = sorted(p.stem for p in (_ROOT / 'configs').glob('[a-z]*.py') if p.stem != 'common')
    close = difflib.get_close_matches(file.stem, names, 1)
    hint = f'did you mean {close[0]}? ' if close else ''
    raise FileNotFoundError(
        f'--config={name}: no such configuration; {hint}give a file, or one of {", ".join(names)}'
    )


@contextlib.contextmanager
def _importable(file: pathlib.Path) -> Iterator[None]:
    """Lets a configuration import the package's `configs` and the modules beside itself."""
    folder = str(file.resolve().parent)
    sys.path[:0] = [str(_ROOT)]
    sys.path.append(folder)
    try:
        import configs

        # Modules of a folder of the user's that is called configs too.
        if folder not in configs.__path__ and pathlib.Path(folder).name == 'configs':
            configs.__path__.append(folder)
        yield
    finally:
        sys.path.remove(str(_ROOT))
        sys.path.remove(folder)


def _add_open_fields(config: Any) -> None:
    """Gives fields without a value their types, so that the command line can set them.

    `config.model` gets every field of every system.
    """
    from ml_collections import config_dict

    from pdl_jax.models.options import find_field_types
    from pdl_jax.postprocess.crf_options import CrfOptions
    from pdl_jax.systems import SYSTEMS, find_options_class

    if 'crf' in config.get('evaluate', {}):
        with config.evaluate.crf.unlocked():
            for field, kind in find_field_types(get_type_hints(CrfOptions)).items():
                if config.evaluate.crf.get(field) is None:
                    config.evaluate.crf[field] = config_dict.placeholder(kind)
    if 'model' not in config:
        return
    with config.model.unlocked():
        for system in SYSTEMS:
            for field, kind in find_options_class(system).field_types().items():
                if config.model.get(field) is None:
                    config.model[field] = config_dict.placeholder(kind)


def _override(config: 'ConfigDict', overrides: list[str]) -> 'ConfigDict':
    from absl import flags
    from ml_collections import config_flags

    from pdl_jax.experiment import RENAMED

    words = []
    for word in overrides:
        field, equals, value = word.partition('=')
        path = field.partition('config.')[2]
        words.append(field.replace(path, RENAMED.get(path, path)) + equals + value)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            'config', config, flag_values=values, sys_argv=['pdl_jax', *words]
        )
        values(['pdl_jax', *words])
        return values.config
    except flags.Error as error:
        raise ValueError(str(error)) from error
    except (AttributeError, KeyError) as error:
        # ml_collections words it: 'batch_siz' Did you mean "batch_size" instead of "batch_siz"?
        # AttributeError wraps that in another repr.
        text = str(error.args[0]).replace('\\n', ' ').replace('\n', ' ').replace('\\', '')
        raise ValueError(f'unknown field of the configuration: {text}') from error
