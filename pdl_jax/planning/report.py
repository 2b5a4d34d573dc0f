"""Plans as JSON values and as text."""

import collections
import dataclasses
from typing import Any

from pdl_jax.planning.analysis import ProgramPlan
from pdl_jax.planning.topology import Topology

_TITLES = {'train': 'train step', 'eval': 'eval step', 'postprocess': 'post-processing alone'}
_INDENT = ' ' * 15
# Number of lookups or loops that the text lists.
_NUM_LISTED = 6
# Number of products listed for their padding.
_NUM_PRODUCTS = 3
_BOUNDS = {'compute': 'compute', 'hbm': 'HBM', 'interconnect': 'the interconnect'}


def make_report(
    plans: list[ProgramPlan],
    topology: Topology,
    *,
    config: str,
    num_steps: int,
    versions: dict[str, str],
) -> dict[str, Any]:
    """Collects plans in one JSON object.

    Args:
      plans: plans of the programs, the most important first.
      topology: the chips they were compiled for.
      config: name of the configuration.
      num_steps: length of the training schedule.
      versions: versions of the compiler and the libraries, by name.

    Returns:
      'programs' by name: the fields of `ProgramPlan` with 'flops_per_image', 'bytes_per_image' and
      'images_per_second', for training also 'num_steps' and 'schedule_hours'. At the top level
      'fits' and 'bytes_per_chip' cover all programs; 'flops', 'bytes_accessed', 'step_seconds',
      'bound' and 'images_per_second' are those of the first. 'config', 'topology', 'chip',
      'num_chips', 'rates', 'is_simulated' and 'versions' say what was planned.
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
    """Formats a report of `make_report` as text."""
    versions = ', '.join(f'{key} {value}' for key, value in report['versions'].items())
    lines = [f'{report["config"]} on {report["topology"]}: {report["num_chips"]} chips, {versions}']
    if report['is_simulated']:
        lines.append(f'Compiled for CPU devices; estimates at the rates of {report["chip"]}.')
    for program in report['programs'].values():
        lines += ['', *_format_program(program, report['num_chips'])]
    return '\n'.join(lines)


def _describe(plan: ProgramPlan, num_steps: int) -> dict[str, Any]:
    values = dataclasses.asdict(plan)
    values['flops_per_image'] = _divide(plan.flops, plan.num_images)
    values['bytes_per_image'] = _divide(plan.bytes_accessed, plan.num_images)
    values['images_per_second'] = plan.images_per_second
    if plan.name == 'train':
        values['num_steps'] = num_steps
        seconds = plan.step_seconds
        values['schedule_hours'] = None if seconds is None else num_steps * seconds / 3600
    return values


def _divide(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _format_program(program: dict[str, Any], num_chips: int) -> list[str]:
    height, width = program['size']
    images = program['num_images']
    lines = [
        f'{_TITLES[program["name"]]}: {images} images of {height}x{width}, '
        f'{images / num_chips:g} per chip; compiled in {program["compile_seconds"]:.0f} s'
    ]
    used, limit = _gib(program['bytes_per_chip']), _gib(program['hbm_bytes'])
    verdict = 'fits' if program['fits'] else 'DOES NOT FIT'
    if program['flops'] is None:
        return [*lines, f'  memory       {used} of {limit} GiB per chip: {verdict}']
    parts = ', '.join(f'{key} {_gib(value)}' for key, value in program['memory'].items())
    seconds = program['seconds']
    times = ', '.join(f'{_BOUNDS[key]} {1e3 * value:.2f} ms' for key, value in seconds.items())
    lines += [
        f'  memory       {used} of {limit} GiB per chip: {verdict} ({parts})',
        f'  work         {program["flops_per_image"] / 1e9:,.1f} GFLOP and '
        f'{program["bytes_per_image"] / 1e9:,.2f} GB per image',
        f'  time         {times}',
        f'  at best      {1e3 * program["step_seconds"]:.2f} ms, '
        f'bound by {_BOUNDS[program["bound"]]}; '
        f'{program["images_per_second"]:,.0f} images/s' + _format_schedule(program),
        f'  collectives  {_format_collectives(program["collectives"])}',
        f'  lookups      {_format_lookups(program["lookups"])}',
        f'  loops        {_format_loops(program["loops"])}',
        f"  padding      {program['padding']['waste']:.0%} of the convolutions' flops",
    ]
    for product in program['padding']['products'][:_NUM_PRODUCTS]:
        shape = 'x'.join(map(str, product['result']))
        wasted = f'{product["wasted_flops"] / 1e9:,.1f} GFLOP per chip'
        lines.append(f'{_INDENT}{wasted} in {product["op_name"]} -> {shape}')
    return lines


def _format_schedule(program: dict[str, Any]) -> str:
    if 'schedule_hours' not in program:
        return ''
    return f'; {program["schedule_hours"]:.1f} h for {program["num_steps"]:,} steps'


def _format_collectives(collectives: dict[str, dict[str, int]]) -> str:
    texts = [
        f'{kind} {c["count"]:,} ({c["bytes"] / 1e6:,.1f} MB)' for kind, c in collectives.items()
    ]
    return ', '.join(texts) or 'none'


def _format_lookups(lookups: list[dict[str, Any]]) -> str:
    over = [x for x in lookups if x['is_over_pixels']]
    texts = [
        f'{x["kind"]} of {x["num_indices"]:,} in {x["op_name"]}'
        for x in over
        for _ in range(x['count'])
    ]
    return _list_runs(f'{len(lookups)}; over pixels', texts)


def _format_loops(loops: list[dict[str, Any]]) -> str:
    texts = []
    for loop in loops:
        if loop['is_over_rows'] or loop['num_trips'] is None:
            trips = 'data-dependent' if loop['num_trips'] is None else str(loop['num_trips'])
            texts += [f'{trips} iterations in {loop["op_name"]}'] * loop['count']
    return _list_runs(f'{len(loops)}; over rows or data-dependent', texts)


def _list_runs(title: str, texts: list[str]) -> str:
    """Lists each distinct text with its count on a line of its own."""
    counts = collections.Counter(texts)
    lines = [f'{title} {counts.total() or "none"}']
    lines += [f'{n} x {text}' for text, n in counts.most_common(_NUM_LISTED)]
    if len(counts) > _NUM_LISTED:
        lines.append(f'and {len(counts) - _NUM_LISTED} others, see the JSON')
    return ('\n' + _INDENT).join(lines)


def _gib(num_bytes: int) -> str:
    return f'{num_bytes / 2**30:.2f}'
