"""Makes docs/benchmarks.md from results.

    python -m benchmarks.report docs/benchmarks/*.json > docs/benchmarks.md

Of several results of a case and a rival on the same device and machine the last one counts.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.cases import SUITES
from benchmarks.table import format_findings

_INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks.report` from the JSON lines in docs/benchmarks; do not edit.

Ours and a rival run in a process each and are timed back to back, the order alternating from pair to pair. A ratio is the median
of rival / ours over the pairs, with the lowest and the highest behind it: above 1 ours is faster. Seconds are medians of one run.
The other side is plain PyTorch or NumPy, written for this comparison from the definitions of the originals, with the same
weights and inputs.

- *memory*: on a CPU the peak of the process beyond the imported libraries, compilation left out; on a GPU that of the allocator
  since its start. Memory of worker processes is not in it.
- *compile*: tracing and compiling; of PyTorch what the first run took beyond the second.
- *peak*: the share of the fastest measured matrix product of the same precision.
- *found*: the largest difference of the results, in standard deviations of a map for networks and operations, in pixels for label
  maps, relative for losses; or what the suite says.
- *others*: which share of the cores other programs took meanwhile. Above some 10 % only ratios mean anything, and those to
  PyTorch flatter us, because its threads wait for each other at the end of every operation.
"""
_SUITE_TEXTS = {
    'ops': 'Single operations, channels last; backward means the gradients towards all operands.',
    'model': 'Inference, image to maps at full resolution in float32, and where the case says so on to panoptic labels.',
    'postprocess': 'From maps at full resolution to panoptic labels, which have to be identical.',
    'input': (
        'COCO-sized images, crops of 641x641. *host* is what a host has to do: with ours decoding, with the others everything\n'
        'up to targets; *samples* is everything on one core. *train_loop* trains on the batches that workers bring, beside a\n'
        'step that gets the same batch again and again (`ours:step_alone`, below 1 by what waiting and sharing the cores cost);\n'
        'the stall share is the part of the time in which the device has nothing to do.'
    ),
    'train': 'One training step from images and targets: network, losses, gradients, Adam.',
    'metrics': (
        "Panoptic quality of an image on the device beside panopticapi's algorithm, and beside the inference that it is part of\n"
        '(`ours:inference`: 20 is a share of 5 %); and of files.'
    ),
}
_HEADER = (
    '| case | rival | ours s | rival s | rival / ours | target | ours images/s | memory MiB, ours / rival '
    '| compile s, ours / rival | peak, ours / rival | found | others |'
)
_GPU_COMMANDS = """## GPU

No results yet. On a machine with one:

```bash
pip install -r requirements.txt "jax[cuda13]>=0.10.2,<0.13" torch
python -m benchmarks.run --suite=all --device=gpu --json=docs/benchmarks/gpu.json
```

measures inference, with and without post-processing, and training of R50, MobileNetV3-large and Xception-71 at 1025x2049 and
641x641 in bfloat16 with batches of 1 and 16 beside PyTorch with channels-last memory, autocast and torch.compile.
"""

Result = Mapping[str, Any]


def read_results(paths: Iterable[str]) -> list[Result]:
    """The results of files, the oldest first."""
    lines = [line for path in paths for line in pathlib.Path(path).read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda result: result['time'])


def format_report(results: Sequence[Result]) -> str:
    """The document."""
    parts = [_INTRODUCTION]
    machines = dict.fromkeys(map(_find_machine, results))
    for device, processor in machines:
        here = [result for result in results if _find_machine(result) == (device, processor)]
        parts.append(_format_machine(device, here))
        for suite in SUITES:
            rows = _format_rows(result for result in here if result['suite'] == suite)
            if rows:
                line = '|' + '---|' * (_HEADER.count('|') - 1)
                parts.append(
                    '\n'.join(
                        [f'### {suite}', '', _SUITE_TEXTS[suite], '', _HEADER, line, *rows, '']
                    )
                )
        commands = dict.fromkeys(result['command'] for result in here)
        parts.append('\n'.join(['Commands:', '', '```bash', *commands, '```', '']))
    if not any(device == 'gpu' for device, _ in machines):
        parts.append(_GPU_COMMANDS)
    return '\n'.join(parts)


def _find_machine(result):
    return result['device'], result['machine']['processor']


def _format_machine(device, results):
    newest = results[-1]
    facts = newest['machine']
    frameworks = {}
    for result in results:
        frameworks.update(result['machine']['frameworks'])
    versions = {
        name: version
        for framework in frameworks.values()
        for name, version in framework['versions'].items()
    }
    kind = frameworks['ours']['device_kind'] if device == 'gpu' else ', '.join(facts['features'])
    lines = [
        f'## {device.upper()}',
        '',
        f'{facts["processor"]} ({kind}), {facts["num_cores"]} cores, {facts["memory_bytes"] / 2**30:.0f} GiB; '
        f'Python {facts["python"]}, {", ".join(f"{name} {version}" for name, version in versions.items())}; '
        f'measured until {newest["time"][:10]}.',
        '',
        '| matrix product | float32 GFLOP/s | bfloat16 GFLOP/s |',
        '|---|---|---|',
    ]
    for name in frameworks:
        # The best of all calls: others may have been busy during some.
        best = {
            dtype: max(
                result['machine']['frameworks'][name]['products'][dtype]
                for result in results
                if name in result['machine']['frameworks']
            )
            for dtype in ('float32', 'bfloat16')
        }
        lines.append(
            f'| {"jax" if name == "ours" else name} | {best["float32"] / 1e9:.0f} | {best["bfloat16"] / 1e9:.0f} |'
        )
    return '\n'.join([*lines, ''])


def _format_rows(results) -> list[str]:
    """A row for each case and rival, from the last run that has both; cases in the order of their first run."""
    rows = {}
    for result in results:
        row = rows.setdefault((result['case'], result['num_cores']), {})
        row.update({name: (result, rival) for name, rival in result['rivals'].items()})
        if not row:
            row[''] = result, None
    return [
        '| ' + ' | '.join(_format_cells(name, *found)) + ' |'
        for row in rows.values()
        for name, found in row.items()
    ]


def _format_cells(name, result, rival):
    ours = result['ours']
    if rival is not None and 'error' in rival:
        rival, name = None, f'{name} failed'
    sides = (ours,) if rival is None else (ours, rival)
    ratio = '' if rival is None else rival['ratio']
    findings = [text for text in map(format_findings, sides[::-1]) if text]
    num_cores = result['num_cores']
    return (
        result['case'] + (f', {num_cores} core{"s" * (num_cores > 1)}' if num_cores else ''),
        name,
        f'{ours["seconds"]["median"]:.3g}',
        '' if rival is None else f'{rival["seconds"]["median"]:.3g}',
        ratio
        and f'**{ratio["median"]:.2f}** ({ratio["min"]:.2f} to {ratio["max"]:.2f}, {len(ratio["all"])} pairs)',
        f'{rival["target"]:g}' if rival and rival['target'] else '',
        f'{ours["items_per_second"]:.3g}',
        ' / '.join(f'{side["peak_bytes"] / 2**20:.0f}' for side in sides),
        ' / '.join(f'{side["compile_seconds"]:.1f}' for side in sides),
        ' / '.join(
            f'{100 * side["peak_fraction"]:.0f} %' for side in sides if 'peak_fraction' in side
        ),
        '; '.join(findings),
        f'{100 * result["other_work"]:.0f} %',
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.report',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('results', nargs='+', help='files that benchmarks.run has written')
    flags = parser.parse_args(arguments)
    print(format_report(read_results(flags.results)), end='')


if __name__ == '__main__':
    main()
