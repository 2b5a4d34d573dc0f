"""Says what a configuration takes of given chips before they are rented: compiles its programs, runs nothing.

    python -m pdl_jax.commands.plan --config=configs/coco.py --topology=v5e:4x4 --json=plan.json
    python -m pdl_jax.commands.plan --config=configs/scenes.py --topology=cpu:8

The real TPU compiler needs no TPU, only `pip install "jax[tpu]"`; it takes minutes, for a large network on a small machine up to
an hour. A plan for cpu:N is done sooner and shows collectives, loops and lookups as XLA:CPU compiles them. Times are the least
possible ones at published rates: a bound to compare configurations by, not a forecast.
"""

import functools
import importlib.metadata
import json
import re
import sys

import jax
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from pdl_jax.commands.config_flags import parse_flags
from pdl_jax.config import validate_config
from pdl_jax.planning.analysis import plan_program
from pdl_jax.planning.chips import CHIPS
from pdl_jax.planning.outline import find_split
from pdl_jax.planning.programs import PROGRAMS, make_programs
from pdl_jax.planning.report import format_report, make_report
from pdl_jax.planning.topology import Topology, make_topology
from pdl_jax.runtime.sharding import make_mesh


def make_plan(
    config: ConfigDict,
    topology: Topology,
    *,
    programs: tuple[str, ...] = PROGRAMS,
    image_size: tuple[int, int] | None = None,
    name: str = '',
) -> dict:
    """Compiles programs of a configuration and reports what they take.

    Args:
      config: see configs/common.py.
      topology: the chips.
      programs: names of `planning.programs.PROGRAMS`.
      image_size: (height, width) of the largest image, where the data are not there.
      name: of the configuration, for the report.

    Returns:
      See `planning.report.make_report`.

    Raises:
      ValueError: a field of the configuration does not fit.
    """
    validate_config(config)
    config = config.copy_and_resolve_references()
    if config.model.dtype == 'auto':
        # The type of the chips, not of the machine that plans.
        config.model.dtype = 'float32' if topology.is_simulated else 'bfloat16'
    mesh = make_mesh(config.mesh.data, config.mesh.space, devices=topology.devices)
    sources = [
        find_split(config, split, image_size)
        for split in (config.data.train_split, config.data.eval_split)
    ]
    available = make_programs(config, mesh, *sources)
    plans = [plan_program(available[key], mesh, topology) for key in programs]
    versions = {'jax': jax.__version__}
    if not topology.is_simulated:
        versions['libtpu'] = importlib.metadata.version('libtpu')
    return make_report(
        plans, topology, config=name, num_steps=config.train.num_steps, versions=versions
    )


def main(argv: list[str]) -> None:
    """Runs the command with parsed flags."""
    values = flags.FLAGS
    try:
        if len(argv) > 1:
            raise ValueError(f'unexpected arguments {argv[1:]}: options start with --')
        if values.json:
            # Before minutes of compiling, not after.
            epath.Path(values.json).parent.mkdir(parents=True, exist_ok=True)
        report = make_plan(
            values.config,
            make_topology(values.topology, values.chip),
            programs=tuple(values.programs),
            image_size=_parse_size(values.image_size),
            name=_name_config(flags.FLAGS['config']),
        )
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f'error: {error}')
    print(format_report(report))
    if values.json:
        epath.Path(values.json).write_text(json.dumps(report, indent=2) + '\n')


def _name_config(flag) -> str:
    """The file of a configuration and the fields that the command line sets."""
    fields = config_flags.get_override_values(flag)
    return ' '.join(
        [flag.config_filename, *(f'--config.{field}={value}' for field, value in fields.items())]
    )


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text)
    if not match:
        raise ValueError(
            f'--image_size={text} must be HEIGHTxWIDTH in pixels, for example 1024x2048'
        )
    return int(match[1]), int(match[2])


def _define_flags() -> None:
    config_flags.DEFINE_config_file(
        'config', None, 'A configuration; --config.field=value sets a field.'
    )
    flags.DEFINE_string(
        'topology', None, f'{", ".join(CHIPS)} or cpu, and a shape: v5e:4x4, v4:2x2x4, cpu:8.'
    )
    flags.DEFINE_list('programs', list(PROGRAMS), f'What to plan: {",".join(PROGRAMS)}.')
    flags.DEFINE_enum('chip', 'v5e', list(CHIPS), 'Whose rates a plan for cpu:N is held against.')
    flags.DEFINE_string(
        'image_size', None, 'HEIGHTxWIDTH of the largest image, where the data are not there.'
    )
    flags.DEFINE_string('json', None, 'Also write the report here as JSON; local or gs://.')
    flags.mark_flags_as_required(['config', 'topology'])
    flags.register_validator(
        'programs',
        lambda names: bool(names) and set(names) <= set(PROGRAMS),
        f'must name some of {",".join(PROGRAMS)}',
    )


if __name__ == '__main__':
    _define_flags()
    app.run(main, flags_parser=functools.partial(parse_flags, command='pdl_jax.commands.plan'))
