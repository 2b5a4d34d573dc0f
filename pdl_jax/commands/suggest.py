"""The command `suggest`: writes a configuration that fits a prepared data set.

The file has some ten lines, each with its reason: read it, change it, train with it.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdl_jax.data.records import RecordSource
    from pdl_jax.data.suggestion import Setting

SUMMARY = 'write a configuration that fits a prepared data set'

EXAMPLES = """\
pdl_jax suggest data/own --out=own.py
pdl_jax train --config=own.py --workdir=runs/own
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument('path', metavar='DIR', help='dataset directory, the --out of prepare')
    parser.add_argument('--out', default='own.py', help='file to write (default: %(default)s)')
    parser.add_argument('--split', default='train', help='split to look at (default: %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')


def run(flags: argparse.Namespace) -> None:
    """Writes the file and prints it.

    Raises:
      FileNotFoundError: the split is missing.
      FileExistsError: the file exists.
      ValueError: the split was prepared before statistics were stored with it.
    """
    # Imported late, so that --help needs neither NumPy nor TFDS.
    from pdl_jax.data.records import open_split
    from pdl_jax.data.statistics import find_warnings
    from pdl_jax.data.suggestion import suggest_settings
    from pdl_jax.storage import paths

    source = open_split(flags.path, flags.split)
    if source.statistics is None:
        raise ValueError(
            f'{flags.path}/{flags.split} has no statistics, an earlier version prepared it: '
            f'prepare it again with --overwrite'
        )
    out = paths.make_path(flags.out)
    if out.exists() and not flags.overwrite:
        raise FileExistsError(f'--out={flags.out} exists: choose another file, or --overwrite')
    settings = suggest_settings(source.statistics, source.spec)
    text = format_config(flags.path, source, settings)
    paths.write_whole(out, text.encode())
    print(text)
    for warning in find_warnings(source.statistics, source.spec):
        print(f'warning: {warning}')
    print(f'wrote {flags.out}: pdl_jax train --config={flags.out} --workdir=runs/{out.stem}')


def format_config(path: str, source: 'RecordSource', settings: list['Setting']) -> str:
    """Words the settings as a configuration file, Python that imports the package's.

    Args:
      path: the dataset directory.
      source: the split.
      settings: see `data.suggestion.suggest_settings`.
    """
    base = 'small' if source.spec.label_format.thing_classes else 'small_semantic'
    limits = {}
    if source.max_instances:
        # A crop may hold what the largest image holds, and predictions a few more.
        size = max(64, 2 ** (source.max_instances - 1).bit_length())
        limits = {'targets.max_instances': size, 'postprocess.max_centers': size}
    title = f'{source.num_images} images at {path}: {", ".join(source.spec.class_names)[:200]}.'
    lines = [
        # Names of classes come from outside: nothing in them may end the string.
        repr(title),
        '',
        f'from configs import {base}',
        '',
        '',
        'def get_config():',
        f'    config = {base}.get_config()',
        f'    config.data.path = {path!r}',
        f'    config.data.num_classes = {source.spec.num_classes}',
        *(
            [f'    config.data.num_channels = {source.pixels.num_channels}']
            if source.pixels.num_channels != 3
            else []
        ),
        "    config.model.normalization = 'per_image'  # exposures differ",
    ]
    lines += [
        f'    config.{setting.field} = {setting.value!r}'
        + (f'  # {setting.reason}' if setting.reason else '')
        for setting in settings
    ]
    lines += [f'    config.{field} = {value}' for field, value in limits.items()]
    return '\n'.join([*lines, '    return config', ''])
