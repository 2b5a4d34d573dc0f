"""Timing of our programs and the same programs in PyTorch, in alternation.

    python -m benchmarks.run --suite=model --device=cpu --cases=r50 --pairs=5 --json=results.json
    python -m benchmarks.run --suite=all --quick --json=results.json

Prints a table and appends one JSON line per case to a file, from which `benchmarks.report` makes
docs/benchmarks.md. Every program has a process of its own, in which no other framework is loaded.
Ours and a rival's are timed back to back, so ratios hold on a shared machine too. PyTorch
(`pip install 'pdl_jax[convert]'`) is needed unless --no_torch is given; with TensorFlow
(`pip install tensorflow-cpu`) DeepLab2's post-processing is timed too.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import agreement, files, inputs, machine
from benchmarks.cases import SUITES, Case, list_cases
from benchmarks.child import Child, ChildError
from benchmarks.table import format_rows, format_title

# Runs are repeated until they take this long together.
_MIN_SECONDS = 0.3
_PRODUCT_SIZES = {'cpu': 4096, 'gpu': 8192}
_QUICK_PAIRS = 3
_QUICK_SECONDS = 30.0
# Modes that --quick leaves out, because they take more than a minute to compile.
_SLOW_MODES = ('torch:compile',)


def run_case(
    case: Case,
    *,
    device: str,
    num_pairs: int,
    max_seconds: float,
    rivals: Sequence[str],
    num_cores: int | None = None,
    photographs: str | None = None,
) -> dict[str, Any]:
    """Measures a case.

    Args:
      case: the case to measure.
      device: 'cpu' or 'gpu'.
      num_pairs: pairs of timings per rival.
      max_seconds: time per rival after which no pair starts; one is timed in any case.
      rivals: those of the case's rivals to measure.
      num_cores: cores per side if the case does not set them; None for all.
      photographs: folder for the suite input, see `files.find_annotations`; None generates one.

    Returns:
      The result, as in the JSON line.

    Raises:
      ChildError: our program failed.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = _write_inputs(
            case, folder, photographs, has_torch=any(rival.startswith('torch') for rival in rivals)
        )
        children, facts, errors = {}, {}, {}
        num_cores = case.num_cores or num_cores
        # Ours is prepared last, because the first peer writes the weights.
        for name in (*rivals, 'ours'):
            child = stack.enter_context(Child(name, case.suite, device, num_cores))
            try:
                facts[name] = child.ask('prepare', arguments=case.arguments, files=paths)
                children[name] = child
            except ChildError as error:
                if name == 'ours':
                    raise
                errors[name] = {'error': str(error)}
        ours = children.pop('ours')
        other_work = machine.OtherWork([child.process_id for child in (ours, *children.values())])
        pairs = {
            name: _time_pairs(ours, child, num_pairs, max_seconds)
            for name, child in children.items()
        }
        our_seconds = [seconds for values in pairs.values() for seconds, _ in values]
        if not pairs:
            our_seconds = [
                ours.ask('time', min_seconds=_MIN_SECONDS)['seconds'] for _ in range(num_pairs)
            ]
        result = {
            'suite': case.suite,
            'case': case.name,
            'device': device,
            'num_cores': num_cores,
            'arguments': case.arguments,
            'flops': facts['ours']['flops'],
            'other_work': other_work.read_share(),
            'ours': {
                **_summarize(our_seconds, facts['ours'], ours),
                'facts': ours.ask('read_facts'),
            },
            'rivals': errors,
        }
        for name, child in children.items():
            result['rivals'][name] = {
                **_summarize([seconds for _, seconds in pairs[name]], facts[name], child),
                'ratio': _spread([b / a for a, b in pairs[name]]),
                'target': case.targets.get(name),
            }
        # The comparison comes last, because it takes memory.
        for name, child in children.items():
            if case.agreement and not name.startswith('ours:'):
                result['rivals'][name].update(_compare(case.agreement, ours, child, folder))
        return result


def _write_inputs(case, folder, photographs, has_torch):
    """Writes the inputs; returns paths by name, also of files that programs leave for others."""
    paths = inputs.write_inputs(case.arguments, folder)
    kinds = case.arguments.get('inputs', ())
    if 'photographs' in kinds:
        paths['photographs'] = photographs or files.write_photographs(
            case.arguments['num_images'], folder
        )
        paths['records'] = str(folder / 'records')
    if 'panoptic_files' in kinds:
        paths.update(files.write_panoptic_files(case.arguments, folder))
    if case.suite in ('model', 'train', 'export', 'kmax') and has_torch:
        paths['weights'] = str(folder / 'weights.npz')
    return paths


def _time_pairs(ours, rival, num_pairs, max_seconds):
    """Times both back to back, in alternating order; returns pairs of seconds (ours, rival)."""
    pairs = []
    start = time.monotonic()
    while len(pairs) < num_pairs and (not pairs or time.monotonic() - start < max_seconds):
        order = (rival, ours) if len(pairs) % 2 else (ours, rival)
        seconds = {
            child.name: child.ask('time', min_seconds=_MIN_SECONDS)['seconds'] for child in order
        }
        pairs.append((seconds[ours.name], seconds[rival.name]))
    return pairs


def _summarize(seconds, facts, child):
    median = float(np.median(seconds))
    return {
        'seconds': _spread(seconds),
        'items_per_second': facts['num_items'] / median,
        **{key: facts[key] for key in ('compile_seconds', 'argument_bytes', 'temp_bytes')},
        **child.ask('read_memory'),
    }


def _spread(values):
    return {
        'median': float(np.median(values)),
        'min': float(np.min(values)),
        'max': float(np.max(values)),
        'all': [float(value) for value in values],
    }


def _compare(kind, ours, rival, folder):
    outputs = []
    for name, child in (('ours', ours), ('rival', rival)):
        path = str(folder / f'{name}_outputs.npz')
        child.ask('save_outputs', path=path)
        with np.load(path) as file:
            outputs.append(dict(file))
    measures = agreement.compare(kind, *outputs)
    return {'agreement': measures, 'is_same': agreement.is_same(kind, measures)}


def measure_machine(device: str, names: Sequence[str]) -> dict[str, Any]:
    """Describes the machine and measures matrix products with each framework."""
    facts = {**machine.describe(), 'frameworks': {}}
    for name in names:
        with Child(name, '', device) as child:
            facts['frameworks'][name] = child.ask('describe')
            facts['frameworks'][name]['products'] = {
                dtype: child.ask('measure_products', dtype=dtype, size=_PRODUCT_SIZES[device])[
                    'flops_per_second'
                ]
                for dtype in ('float32', 'bfloat16')
            }
    return facts


def add_peak_fractions(result: dict[str, Any], facts: dict[str, Any]) -> None:
    """Adds to every program its share of the fastest matrix product of the machine."""
    flops = result['flops']
    programs = {'ours': result['ours'], **result['rivals']}
    for name, program in programs.items():
        if flops and 'seconds' in program and not name.startswith('ours:'):
            peak = max(
                framework['products'][_find_dtype(name, result['device'])]
                for framework in facts['frameworks'].values()
            )
            program['peak_fraction'] = flops / program['seconds']['median'] / peak


def _find_dtype(name, device):
    is_narrow = 'bf16' in name or 'bfloat16' in name
    return 'bfloat16' if is_narrow or (name == 'ours' and device == 'gpu') else 'float32'


def _choose_rivals(case, flags, has_tensorflow):
    return [
        name
        for name in case.rivals
        if re.search(flags.rivals, name)
        and not (flags.no_torch and name.startswith('torch:'))
        and (has_tensorflow or not name.startswith('tensorflow:'))
        and has_runtime(name)
        and not (flags.quick and name in _SLOW_MODES)
    ]


def has_runtime(rival: str) -> bool:
    """Tells whether the runtime of an export is installed; other frameworks are not asked for."""
    name = rival.partition(':')[0]
    return name not in ('onnxruntime', 'openvino') or importlib.util.find_spec(name) is not None


def find_faults(result: dict[str, Any]) -> list[str]:
    """Lists programs that failed, and those in our precision whose results differ from ours."""
    faults = []
    for name, rival in result['rivals'].items():
        where = f'{result["case"]}, {name}'
        if 'error' in rival:
            faults.append(f'{where}: {rival["error"]}')
        elif (
            not rival.get('is_same', True)
            and result['device'] == 'cpu'
            and _find_dtype(name, 'cpu') == 'float32'
        ):
            faults.append(f'{where}: its results differ from ours: {rival["agreement"]}')
    return faults


def _make_parser():
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.run',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--suite', required=True, choices=(*SUITES, 'all'))
    parser.add_argument('--device', default='cpu', choices=('cpu', 'gpu'))
    parser.add_argument(
        '--cases', default='', help='only those whose names match this regular expression'
    )
    parser.add_argument(
        '--rivals', default='', help='only those whose names match this regular expression'
    )
    parser.add_argument(
        '--pairs',
        type=int,
        default=5,
        help='pairs of timings per rival (default: %(default)s)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=300.0,
        help='time per rival after which no pair starts (default: %(default)s)',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='the most telling cases without torch.compile, '
        f'{_QUICK_PAIRS} pairs or {_QUICK_SECONDS:g} seconds',
    )
    parser.add_argument(
        '--cores',
        type=int,
        help='cores per side; with 1 no thread waits for another that other programs delay',
    )
    parser.add_argument('--no_torch', action='store_true', help='leave PyTorch out')
    parser.add_argument(
        '--data',
        help='suite input: folder of images/, panoptic_NAME/ and panoptic_NAME.json '
        '(default: generated)',
    )
    parser.add_argument('--json', help='file to which one line per case is appended')
    return parser


def _measure_case(case, rivals, flags):
    """Measures a case with the options of the command line."""
    return run_case(
        case,
        device=flags.device,
        num_pairs=flags.pairs,
        max_seconds=flags.seconds,
        rivals=rivals,
        num_cores=flags.cores,
        photographs=flags.data,
    )


def _format_command(arguments):
    # The file for the results does not affect them.
    command = shlex.join(['python', '-m', 'benchmarks.run', *arguments])
    return re.sub(r' --json[= ]\S+', '', command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; `python -m benchmarks.run --help` lists the flags."""
    parser = _make_parser()
    flags = parser.parse_args(arguments)
    suites = SUITES if flags.suite == 'all' else (flags.suite,)
    cases = [case for suite in suites for case in list_cases(suite, flags.device, flags.cases)]
    if flags.quick:
        cases = [case for case in cases if case.is_quick]
        flags.pairs, flags.seconds = (
            min(flags.pairs, _QUICK_PAIRS),
            min(flags.seconds, _QUICK_SECONDS),
        )
    if not cases:
        parser.exit(
            1, f'error: the suite {flags.suite} has no case {flags.cases!r} on {flags.device}\n'
        )
    # TensorFlow is optional: it is large, and few rivals use it.
    has_tensorflow = importlib.util.find_spec('tensorflow') is not None
    chosen = [_choose_rivals(case, flags, has_tensorflow) for case in cases]
    frameworks = ['ours'] if flags.no_torch else ['ours', 'torch']
    if any(name.startswith('tensorflow:') for rivals in chosen for name in rivals):
        frameworks.append('tensorflow')
    facts = measure_machine(flags.device, frameworks)
    command = _format_command(sys.argv[1:] if arguments is None else arguments)
    print(format_title(), flush=True)
    faults = []
    for case, rivals in zip(cases, chosen, strict=True):
        try:
            result = _measure_case(case, rivals, flags)
        except ChildError as error:
            faults.append(f'{case.name}: {error}')
            continue
        add_peak_fractions(result, facts)
        faults += find_faults(result)
        print('\n'.join(format_rows(result)), flush=True)
        if flags.json:
            line = {
                **result,
                'machine': facts,
                'command': command,
                'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
            }
            with open(flags.json, 'a') as file:
                file.write(json.dumps(line) + '\n')
    if faults:
        parser.exit(1, '\n'.join(f'error: {fault}' for fault in faults) + '\n')


if __name__ == '__main__':
    main()
