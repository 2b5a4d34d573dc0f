"""Says what a configuration takes of given chips: compiles its programs, runs nothing.

The real TPU compiler needs no TPU, only `pip install "jax[tpu]"`; it takes minutes, for a large
network on a small machine up to an hour. A plan for cpu:N is done sooner and shows collectives,
loops and lookups as XLA:CPU compiles them. Times are the least possible ones at published rates: a
bound to compare configurations by, not a forecast.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pdl_jax.commands.config_file import add_config_flag
from pdl_jax.commands.processes import announce
from pdl_jax.commands.sizes import parse_size

if TYPE_CHECKING:
    from pdl_jax.experiment import Experiment
    from pdl_jax.planning.topology import Topology

SUMMARY = 'memory, time and collectives of a configuration on given chips'
EXAMPLES = """\
  pdl_jax plan --config=coco --topology=v5e:4x4 --json=plan.json
  pdl_jax plan --config=scenes --topology=cpu:8
  pdl_jax plan --compare docs/plans/*.json"""

PROGRAMS = ('train', 'eval', 'postprocess')


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add_config_flag(parser, is_required=False)
    parser.add_argument(
        '--topology', help='chips and a shape: v5e:4x4, v4:2x2x4, v5p:..., v6e:..., cpu:8'
    )
    parser.add_argument(
        '--programs',
        default=','.join(PROGRAMS),
        help=f'what to plan (default: {",".join(PROGRAMS)})',
    )
    parser.add_argument(
        '--chip', default='v5e', help='whose rates a plan for cpu:N is held against'
    )
    parser.add_argument(
        '--image_size', help='HEIGHTxWIDTH of the largest image, without the data at hand'
    )
    parser.add_argument('--json', help='also write the report here as JSON; local or gs://')
    parser.add_argument(
        '--compare',
        nargs='+',
        metavar='FILE',
        help='hold written plans, of the first of --programs, against all chips',
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    programs = tuple(flags.programs.split(','))
    if not set(programs) <= set(PROGRAMS):
        raise ValueError(f'--programs={flags.programs} must name some of {",".join(PROGRAMS)}')
    if flags.compare:
        from pdl_jax.planning.compare import compare_plans

        print(compare_plans(flags.compare, program=programs[0]))
        return
    if not flags.config or not flags.topology:
        raise ValueError('give --config and --topology, or --compare')
    size = parse_size('image_size', flags.image_size) if flags.image_size else None
    announce(f'planning {flags.config} for {flags.topology}')
    import json

    from pdl_jax.commands.config_file import load_config
    from pdl_jax.experiment import Experiment
    from pdl_jax.planning.report import format_report
    from pdl_jax.planning.topology import make_topology
    from pdl_jax.storage.paths import make_path, write_whole

    if flags.json:
        # Before minutes of compiling, not after.
        make_path(flags.json).parent.mkdir(parents=True, exist_ok=True)
    config = load_config(flags.config, flags.config_overrides)
    report = make_plan(
        Experiment.from_config(config),
        make_topology(flags.topology, flags.chip),
        programs=programs,
        image_size=size,
        name=' '.join([flags.config, *flags.config_overrides]),
    )
    print(format_report(report))
    if flags.json:
        write_whole(make_path(flags.json), f'{json.dumps(report, indent=2)}\n'.encode())


def make_plan(
    experiment: 'Experiment',
    topology: 'Topology',
    *,
    programs: Sequence[str] = PROGRAMS,
    image_size: tuple[int, int] | None = None,
    name: str = '',
) -> dict[str, Any]:
    """Compiles programs of an experiment and reports what they take.

    Args:
      experiment: what the configuration says.
      topology: the chips.
      programs: some of `PROGRAMS`.
      image_size: (height, width) in pixels of the largest image, without the data at hand.
      name: name of the configuration, for the report.

    Returns:
      See `planning.report.make_report`.

    Raises:
      ValueError: a field of the configuration does not fit.
    """
    import dataclasses
    import importlib.metadata

    import jax

    from pdl_jax.commands.plan_programs import find_split, make_programs
    from pdl_jax.planning.analysis import plan_program
    from pdl_jax.planning.report import make_report
    from pdl_jax.runtime.sharding import make_mesh

    if experiment.system.dtype == 'auto':
        # The dtype of the chips, not of the machine that plans.
        dtype = 'float32' if topology.is_simulated else 'bfloat16'
        system = dataclasses.replace(experiment.system, dtype=dtype)
        experiment = dataclasses.replace(experiment, system=system)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.space, devices=topology.devices)
    data = experiment.data
    train_source, eval_source = (
        find_split(experiment, split, image_size) for split in (data.train_split, data.eval_split)
    )
    available = make_programs(experiment, mesh, train_source, eval_source)
    plans = [plan_program(available[key], mesh, topology) for key in programs]
    versions = {'jax': jax.__version__}
    if not topology.is_simulated:
        versions['libtpu'] = importlib.metadata.version('libtpu')
    return make_report(
        plans, topology, config=name, num_steps=experiment.train.num_steps, versions=versions
    )
