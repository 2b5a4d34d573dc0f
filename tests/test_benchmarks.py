"""The benchmark harness and its peers, on tiny cases."""

import dataclasses
import functools
import importlib.util
import json

import jax
import numpy as np
import pytest

from benchmarks import agreement, files, inputs, report, run
from benchmarks.cases import SUITES, Case, list_cases
from benchmarks.child import Child, ChildError
from benchmarks.ours.ops import make_operation
from benchmarks.peers.input import make_targets_by_label, make_targets_by_segment
from benchmarks.program import Setup
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.typing import LabelFormat

HAS_TORCH = importlib.util.find_spec('torch') is not None
TINY_ARGUMENTS = {
    'operation': 'depthwise',
    'size': (9, 11),
    'channels': 8,
    'features': 8,
    'kernel': 3,
    'stride': 2,
    'dilation': 1,
    'has_gradient': True,
    'inputs': ('operands',),
}


@pytest.fixture(scope='module')
def tiny_result():
    """Measures a case in the processes of both sides."""
    case = Case(
        'ops', 'tiny', TINY_ARGUMENTS, ('torch:eager',), {'torch:eager': 0.5}, agreement='maps'
    )
    rivals = case.rivals if HAS_TORCH else ()
    return run.run_case(case, device='cpu', num_pairs=2, max_seconds=60, rivals=rivals)


def make_machine():
    products = {'float32': 2e9, 'bfloat16': 4e9}
    frameworks = {
        'ours': {'versions': {'jax': '1.2.3'}, 'device_kind': 'cpu', 'products': products},
        'torch': {'versions': {'torch': '4.5.6'}, 'device_kind': 'AVX2', 'products': products},
    }
    return {
        'processor': 'Some CPU',
        'features': ['avx2'],
        'num_cores': 2,
        'memory_bytes': 2**34,
        'python': '3.11.0',
        'frameworks': frameworks,
    }


def make_result(**rest):
    program = {
        'seconds': {'median': 0.5, 'min': 0.4, 'max': 0.6, 'all': [0.4, 0.6]},
        'items_per_second': 2.0,
        'compile_seconds': 2.0,
        'peak_bytes': 3 * 2**20,
    }
    rival = {
        **program,
        'ratio': {'median': 1.25, 'min': 1.0, 'max': 1.5, 'all': [1.0, 1.5]},
        'target': 1.1,
        'agreement': {'largest_difference': 1e-5},
        'is_same': True,
    }
    return {
        'suite': 'model',
        'case': 'r50/513x513',
        'device': 'cpu',
        'num_cores': None,
        'flops': 1e9,
        'other_work': 0.25,
        'ours': {**program, 'facts': {}},
        'rivals': {'torch:eager': rival},
        'machine': make_machine(),
        'command': 'python -m benchmarks.run --suite=model',
        'time': '2026-01-01T00:00:00Z',
        **rest,
    }


@pytest.mark.slow
def test_a_case_goes_through_both_processes(tiny_result):
    ours = tiny_result['ours']
    assert ours['seconds']['min'] <= ours['seconds']['median'] <= ours['seconds']['max']
    assert (
        ours['compile_seconds'] > 0
        and ours['peak_bytes'] > 0
        and ours['argument_bytes'] > 9 * 11 * 8 * 4
    )
    assert tiny_result['flops'] == 3 * 2 * 5 * 6 * 9 * 8
    assert 0 <= tiny_result['other_work'] <= 1
    json.dumps(tiny_result)
    if HAS_TORCH:
        rival = tiny_result['rivals']['torch:eager']
        assert len(rival['ratio']['all']) == 2 and rival['target'] == 0.5
        assert rival['is_same'] and rival['agreement']['largest_difference'] < 1e-4
        assert run.find_faults(tiny_result) == []


def test_a_result_becomes_rows_and_a_report(tiny_result):
    line = {**tiny_result, **{key: make_result()[key] for key in ('machine', 'command', 'time')}}
    run.add_peak_fractions(line, line['machine'])
    assert line['ours']['peak_fraction'] == pytest.approx(
        line['flops'] / line['ours']['seconds']['median'] / 2e9
    )
    assert 'tiny' in run.format_rows(line)[0]
    assert '| tiny |' in report.format_report([line])


def test_report_takes_the_last_result_of_each_rival(tmp_path):
    old = make_result(time='2025-01-01T00:00:00Z')
    old['rivals'] = {
        'torch:eager': {**old['rivals']['torch:eager'], 'target': 99.0},
        'torch:compile': {'error': 'no compiler'},
    }
    path = tmp_path / 'results.json'
    path.write_text('\n'.join(json.dumps(result) for result in (make_result(), old)))
    text = report.format_report(report.read_results([path]))
    ratio = '**1.25** (1.00 to 1.50, 2 pairs)'
    row = f'| r50/513x513 | torch:eager | 0.5 | 0.5 | {ratio} | 1.1 | 2 | 3 / 3 | 2.0 / 2.0 |'
    assert row in text
    assert '| r50/513x513 | torch:compile failed | 0.5 |' in text
    assert '99' not in text
    for fact in (
        'Some CPU',
        'jax 1.2.3',
        'torch 4.5.6',
        'python -m benchmarks.run --suite=model',
        'until 2026-01-01',
    ):
        assert fact in text


def test_faults_are_failures_and_differences_in_our_precision():
    result = make_result()
    same = result['rivals']['torch:eager']
    different = {**same, 'agreement': {'largest_difference': 0.7}, 'is_same': False}
    result['rivals'] = {'torch:eager': same, 'torch:eager_bf16': different}
    assert run.find_faults(result) == []
    result['rivals'] = {'torch:eager': different, 'torch:compile': {'error': 'no compiler'}}
    first, second = run.find_faults(result)
    assert 'torch:eager' in first and '0.7' in first and 'no compiler' in second


def test_a_failing_process_is_reported():
    with Child('numpy:panopticapi', 'metrics', 'cpu') as child:
        with pytest.raises(
            ChildError, match='numpy:panopticapi failed to prepare(.|\n)*num_classes'
        ):
            child.ask('prepare', arguments={}, files={})


@pytest.mark.parametrize(
    ('kind', 'ours', 'theirs', 'is_same'),
    [
        # Instances may be numbered in another order.
        ('panoptic', {'panoptic': [3001, 3002, 4000]}, {'panoptic': [3002, 3001, 4000]}, True),
        ('panoptic', {'panoptic': [3001, 3001, 3002]}, {'panoptic': [3001, 3002, 3002]}, False),
        ('panoptic', {'panoptic': [3001, 3001, 4000]}, {'panoptic': [4001, 4001, 4000]}, False),
        ('maps', {'a': [1.0, 2.0]}, {'a': [1.0, 2.0004]}, True),
        ('maps', {'a': [1.0, 2.0]}, {'a': [1.0, 2.1]}, False),
        ('loss', {'loss': 1.00001}, {'loss': 1.0}, True),
        ('loss', {'loss': 1.01}, {'loss': 1.0}, False),
        ('quality', {'quality': [0.5]}, {'quality': [0.5]}, True),
        ('quality', {'quality': [0.5]}, {'quality': [0.50001]}, False),
    ],
)
def test_agreement(kind, ours, theirs, is_same):
    measures = agreement.compare(
        kind, *({key: np.array(value) for key, value in side.items()} for side in (ours, theirs))
    )
    assert agreement.is_same(kind, measures) == is_same


@pytest.mark.parametrize('device', ['cpu', 'gpu'])
def test_cases_are_distinct_and_complete(device):
    for suite in SUITES:
        cases = list_cases(suite, device)
        if suite in ('export', 'kmax') and device == 'gpu':
            assert not cases
            continue
        assert cases and len({case.name for case in cases}) == len(cases)
        assert any(case.is_quick for case in cases)
        for case in cases:
            assert case.rivals and set(case.targets) <= set(case.rivals)
            json.dumps(dataclasses.asdict(case))
    assert len(list_cases('model', device, '^r50/')) >= 4


def test_every_operation_traces_to_the_size_that_is_drawn_for_it():
    for case in list_cases('ops', 'cpu', '/forward$'):
        arguments = {**case.arguments, 'size': (9, 17), 'channels': 4, 'features': 4}
        arrays = inputs.draw_operands(arguments)
        cotangent = arrays.pop('cotangent')
        assert jax.eval_shape(make_operation(arguments), **arrays).shape == cotangent.shape, (
            case.name
        )


def write(tmp_path, arguments):
    folder = tmp_path / 'inputs'
    folder.mkdir()
    return inputs.write_inputs(arguments, folder)


@pytest.mark.parametrize('is_from_labels', [True, False])
@pytest.mark.parametrize('peer', ['torch', 'tensorflow'])
def test_post_processing_is_identical_to_the_peers(tmp_path, peer, is_from_labels):
    pytest.importorskip(peer, reason=f'the peer needs {peer}')
    from benchmarks.ours import postprocess as ours

    peers = importlib.import_module(
        f'benchmarks.peers.{"" if peer == "torch" else "tensorflow_"}postprocess'
    )
    arguments = {
        'size': (65, 97),
        'batch': 1,
        'num_classes': 19,
        'num_centers': 5,
        'inputs': ('scene',),
        'is_from_labels': is_from_labels,
    }
    paths = write(tmp_path, arguments)
    result = ours.prepare(Setup(arguments, paths, '', 'cpu')).get_outputs()
    assert len(np.unique(result['panoptic'])) > 5
    for mode in ('bowenc0221', 'detectron2') if peer == 'torch' else ('deeplab2',):
        theirs = peers.prepare(Setup(arguments, paths, mode, 'cpu')).get_outputs()
        assert agreement.compare('panoptic', result, theirs)['different_pixels'] == 0


@pytest.mark.parametrize('kind', ['label_maps', 'panoptic_files'])
def test_panoptic_quality_is_identical_to_the_peers(tmp_path, kind):
    from benchmarks.ours import metrics as ours
    from benchmarks.peers import metrics as peers

    arguments = {
        'size': (160, 240),
        'num_classes': 19,
        'num_centers': 12,
        'num_images': 2,
        'inputs': (kind,),
    }
    paths = write(tmp_path, arguments)
    if kind == 'panoptic_files':
        paths = files.write_panoptic_files(arguments, tmp_path)
    result, theirs = (
        side.prepare(Setup(arguments, paths, '', 'cpu')).get_outputs() for side in (ours, peers)
    )
    assert 0.1 < result['quality'][0] < 0.95
    np.testing.assert_allclose(result['quality'], theirs['quality'], atol=1e-12)


def test_targets_of_the_peers_are_ours_by_their_conventions():
    scene = inputs.draw_scene((65, 65), 19, 6)
    panoptic = scene['semantic'] * inputs.LABEL_DIVISOR + scene['instance']
    things = inputs.list_thing_classes(19)
    label_format = LabelFormat(19, things, inputs.IGNORE_LABEL, inputs.LABEL_DIVISOR)
    segments = [
        {'id': i + 1, 'class': i // inputs.LABEL_DIVISOR, 'iscrowd': 0}
        for i in np.unique(panoptic).tolist()
    ]
    for options, theirs in (
        (TargetOptions(), make_targets_by_label(panoptic, things)),
        (
            TargetOptions(center_rounding='down', is_offset_to_pixel=False),
            make_targets_by_segment(panoptic + 1, segments, things),
        ),
    ):
        make = functools.partial(make_targets, label_format=label_format, options=options)
        ours = jax.jit(make, compiler_options={'xla_backend_optimization_level': 0})(panoptic)
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            np.testing.assert_allclose(value, theirs[key], atol=2e-5, err_msg=key)
