"""A plan as JSON and as text."""

import collections
import dataclasses
from typing import Any

from pdl_jax.planning.analysis import ProgramPlan
from pdl_jax.planning.topology import Topology

_TITLES = {'train': 'train step', 'eval': 'eval step', 'postprocess': 'post-processing alone'}
_INDENT = ' ' * 15
# Lookups or loops that the text lists.
_NUM_LISTED = 6
_BOUNDS = {'compute': 'compute', 'hbm': 'HBM', 'interconnect': 'the interconnect'}


def make_report(
    plans: list[ProgramPlan],
    topology: Topology,
    *,
    config: str,
    num_steps: int,
    versions: dict[str, str],
) -> dict[str, Any]:
    """Brings plans into JSON values.

    Args:
      plans: of the programs, the one that counts most first.
      topology: the chips.
      config: names the configuration.
      num_steps: of the training schedule.
      versions: of the compiler and its like.

    Returns:
      'programs' by name: the fields of `ProgramPlan`, and 'flops_per_image', 'bytes_per_image', 'images_per_second', of training
      also 'schedule_hours'. Beside it what the run as a whole needs: 'fits' and 'bytes_per_chip' over all programs, and 'flops',
      'bytes_accessed', 'step_seconds', 'bound', 'images_per_second' of the first.
    """
    programs = {plan.name: _describe(plan, num_steps) for plan in plans}
    first = programs[plans[0].name]
    keys = ('flops', 'bytes_accessed', 'step_seconds', 'bound', 'images_per_second')
    return {
        'config': config,
        'topology': topology.name,
        'chip': topology.chip_name,
        'num_chips': topology.num_chips,
        'rates': dataclasses.asdict(topology.chip),
        'is_simulated': topology.is_simulated,
        'versions': versions,
        'fits': all(plan.fits for plan in plans),
        'bytes_per_chip': max(plan.bytes_per_chip for plan in plans),
        **{key: first[key] for key in keys},
        'programs': programs,
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as text."""
    versions = ', '.join(f'{key} {value}' for key, value in report['versions'].items())
    lines = [f'{report["config"]} on {report["topology"]}: {report["num_chips"]} chips, {versions}']
    if report['is_simulated']:
        lines.append(
            f'Compiled for CPU devices; held against the rates of {report["chip"]}: take them as a first idea.'
        )
    for program in report['programs'].values():
        lines += ['', *_format_program(program, report['num_chips'])]
    return '\n'.join(lines)


def _describe(plan, num_steps):
    values = dataclasses.asdict(plan)
    is_known = plan.flops is not None
    values['flops_per_image'] = plan.flops / plan.num_images if is_known else None
    values['bytes_per_image'] = plan.bytes_accessed / plan.num_images if is_known else None
    values['images_per_second'] = plan.images_per_second
    if plan.name == 'train':
        values['num_steps'] = num_steps
        values['schedule_hours'] = num_steps * plan.step_seconds / 3600 if is_known else None
    return values


def _format_program(program, num_chips):
    height, width = program['size']
    images = program['num_images']
    lines = [
        f'{_TITLES[program["name"]]}: {images} images of {height}x{width}, {images / num_chips:g} a chip; '
        f'compiled in {program["compile_seconds"]:.0f} s'
    ]
    used, limit = _gib(program['bytes_per_chip']), _gib(program['hbm_bytes'])
    verdict = 'fits' if program['fits'] else 'DOES NOT FIT'
    if program['flops'] is None:
        return [*lines, f'  memory       {used} of {limit} GiB a chip: {verdict}']
    parts = ', '.join(f'{key} {_gib(value)}' for key, value in program['memory'].items())
    seconds = program['seconds']
    times = ', '.join(f'{_BOUNDS[key]} {1e3 * value:.2f} ms' for key, value in seconds.items())
    lines += [
        f'  memory       {used} of {limit} GiB a chip: {verdict} ({parts})',
        f'  work         {program["flops_per_image"] / 1e9:,.1f} GFLOP and {program["bytes_per_image"] / 1e9:,.2f} GB an image',
        f'  time         {times}',
        f'  at best      {1e3 * program["step_seconds"]:.2f} ms, bound by {_BOUNDS[program["bound"]]}; '
        f'{program["images_per_second"]:,.0f} images/s' + _format_schedule(program),
        f'  collectives  {_format_collectives(program["collectives"])}',
        f'  lookups      {_format_lookups(program["lookups"])}',
        f'  loops        {_format_loops(program["loops"])}',
        f"  padding      {program['padding']['waste']:.0%} of the convolutions' flops",
    ]
    for product in program['padding']['products'][:3]:
        shape = 'x'.join(map(str, product['result']))
        lines.append(
            f'{_INDENT}{product["wasted_flops"] / 1e9:,.1f} GFLOP a chip in {product["op_name"]} -> {shape}'
        )
    return lines


def _format_schedule(program):
    if 'schedule_hours' not in program:
        return ''
    return f'; {program["schedule_hours"]:.1f} h for {program["num_steps"]:,} steps'


def _format_collectives(collectives):
    texts = [
        f'{kind} {c["count"]:,} ({c["bytes"] / 1e6:,.1f} MB)' for kind, c in collectives.items()
    ]
    return ', '.join(texts) or 'none'


def _format_lookups(lookups):
    over = [x for x in lookups if x['is_over_pixels']]
    texts = [
        f'{x["kind"]} of {x["num_indices"]:,} in {x["op_name"]}'
        for x in over
        for _ in range(x['count'])
    ]
    return _list_runs(f'{len(lookups)}; over pixels', texts)


def _format_loops(loops):
    texts = []
    for loop in loops:
        if loop['is_over_rows'] or loop['num_trips'] is None:
            passes = (
                'as many passes as data say'
                if loop['num_trips'] is None
                else f'{loop["num_trips"]} passes'
            )
            texts += [f'{passes} in {loop["op_name"]}'] * loop['count']
    return _list_runs(f'{len(loops)}; over rows, or as long as data say', texts)


def _list_runs(title, texts):
    """What is listed, each once with its number, a line each."""
    counts = collections.Counter(texts)
    lines = [f'{title} {counts.total() or "none"}']
    lines += [f'{n} x {text}' for text, n in counts.most_common(_NUM_LISTED)]
    if len(counts) > _NUM_LISTED:
        lines.append(f'and {len(counts) - _NUM_LISTED} other ones, see the JSON')
    return ('\n' + _INDENT).join(lines)


def _gib(num_bytes):
    return f'{num_bytes / 2**30:.2f}'
