"""Plans: numbers read from compiled programs against hand counts, and the command end to end."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pdl_jax.commands.command_line import main
from pdl_jax.commands.plan_programs import find_split, make_programs
from pdl_jax.planning import analysis, chips, compare, topology
from pdl_jax.planning.collectives import Collective, find_collectives, summarize_collectives
from pdl_jax.planning.hlo import parse_module, parse_shapes
from pdl_jax.planning.lookups import find_lookups, find_loops
from pdl_jax.planning.products import find_products, padding_waste
from pdl_jax.planning.program import Program
from pdl_jax.planning.report import format_report, make_report
from pdl_jax.planning.traffic import count_bytes
from pdl_jax.runtime.sharding import make_mesh
from tests import tiny

# Output in the style of the TPU compiler: tiled layouts, on-chip values (S(1)), a loop that carries
# its bound, and a fusion that reads one slice of a large array.
TPU_TEXT = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[2,9,9,48]{3,2,1,0:T(8,128)(2,1)})->f32[]}, num_partitions=4

%conv_of_slice (param_0: bf16[2,16,9,48], param_1: bf16[5,3,3,48,48], param_2: s32[]) -> bf16[2,16,9,48] {
  %param_0 = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1 = bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)} parameter(1)
  %param_2 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)} dynamic-slice(%param_1, %param_2, %zero, %zero, %zero, /*index=5*/%zero), dynamic_slice_sizes={1,3,3,48,48}
  %kernel = bf16[3,3,48,48]{3,2,1,0:T(8,128)(2,1)} bitcast(%slice)
  ROOT %convolution = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} convolution(%param_0, %kernel), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/while/conv"}
}

%body (carry: (s32[], bf16[2,16,9,48], bf16[5,3,3,48,48], s32[])) -> (s32[], bf16[2,16,9,48], bf16[5,3,3,48,48], s32[]) {
  %carry = (s32[]{:T(128)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %one = s32[]{:T(128)S(6)} constant(1)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%carry), index=0
  %x = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%carry), index=1
  %kernels = bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)} get-tuple-element(%carry), index=2
  %end = s32[]{:T(128)S(6)} get-tuple-element(%carry), index=3
  %y = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} fusion(%x, %kernels, %i), kind=kOutput, calls=%conv_of_slice
  %next = s32[]{:T(128)S(6)} add(%i, %one)
  ROOT %out = (s32[]{:T(128)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%next, %y, %kernels, %end)
}

%condition (carry.1: (s32[], bf16[2,16,9,48], bf16[5,3,3,48,48], s32[])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %end.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=3
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end.1), direction=LT, metadata={op_name="jit(f)/while/cond"}
}

ENTRY %main (x.1: bf16[2,16,9,48], kernels.1: bf16[5,3,3,48,48]) -> f32[48] {
  %x.1 = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %kernels.1 = bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[]{:T(128)} constant(1)
  %start.1 = s32[]{:T(128)S(6)} copy(%start)
  %five = s32[]{:T(128)} constant(5)
  %copy-start = (bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %tuple = (s32[]{:T(128)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%start.1, %copy-done, %kernels.1, %five)
  %while = (s32[]{:T(128)}, bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[5,3,3,48,48]{4,3,2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%tuple), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
  %result = bf16[2,16,9,48]{3,2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%while), index=1
  %sum = f32[48]{0:T(128)S(1)} custom-call(%result), custom_call_target="Sum"
  ROOT %all-reduce = f32[48]{0:T(128)} all-reduce(%sum), channel_id=1, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, to_apply=%add, metadata={op_name="jit(f)/sum"}
}
"""  # noqa: E501


def compile_text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


@pytest.fixture(scope='module')
def tpu_module():
    return parse_module(TPU_TEXT)


def test_shapes_are_counted_in_whole_tiles():
    shape, small, scalar = parse_shapes(
        '(bf16[2,65,65,48]{2,3,1,0:T(8,128)(2,1)S(1)}, f32[3]{0:T(128)}, s32[]{:T(128)})'
    )
    assert (shape.dims, shape.minor_to_major, shape.tile, shape.memory_space) == (
        (2, 65, 65, 48),
        (2, 3, 1, 0),
        (8, 128),
        1,
    )
    # The 65 columns are padded to 128 lanes; the 48 channels fill sublanes without padding.
    assert shape.num_bytes == 2 * 65 * 128 * 48 * 2
    assert small.num_bytes == 128 * 4
    assert scalar.num_bytes == 4
    assert parse_shapes('f32[4,3]{1,0}')[0].num_bytes == 48


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match='not the text of a compiled program'):
        parse_module('nothing')


def test_loops_of_a_tpu_program_are_counted(tpu_module):
    (loop,) = find_loops(tpu_module)
    assert (loop.op_name, loop.count, loop.num_trips) == ('jit(f)/while', 1, 4)


def test_products_of_a_tpu_program_are_counted(tpu_module):
    (product,) = find_products(tpu_module)
    # Per axis, two of the 3 * 16 and 3 * 9 (tap, position) pairs fall outside the image.
    assert product.flops == 2 * 2 * 48 * 48 * (3 * 16 - 2) * (3 * 9 - 2)
    assert (product.count, product.op_name) == (4, 'jit(f)/while/conv')
    # 48 of 128 lanes and 9 of 16 sublanes of the result hold data, and 48 of 128 lanes of the sum.
    assert padding_waste([product]) == pytest.approx(1 - (48 / 128) ** 2 * 9 / 16)


def test_bytes_of_a_tpu_program_are_counted(tpu_module):
    image = 2 * 16 * 16 * 128 * 2
    kernel = 3 * 3 * 48 * 128 * 2
    # The image is read once and stays on the chip; each iteration reads its own kernel; the loop
    # index takes 4 bytes.
    assert count_bytes(tpu_module) == image + 4 * kernel + 4 + 128 * 4


def test_collectives_of_a_tpu_program_are_found(tpu_module):
    (found,) = find_collectives(tpu_module)
    assert found == Collective('all-reduce', 'jit(f)/sum', 1, 512, 2)


@pytest.mark.parametrize(
    ('groups', 'size'),
    [
        ('{{0,1,2,3}}', 4),
        ('{{0,1},{2,3}}', 2),
        ('[2,2]<=[4]', 2),
        ('[1,4]<=[2,2]T(1,0)', 4),
        ("mesh['a'=2,'b'=2] {'a','b'}", 4),
    ],
)
def test_groups_of_collectives_are_read(groups, size):
    text = TPU_TEXT.replace("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", groups)
    assert find_collectives(parse_module(text))[0].group_size == size


@pytest.mark.parametrize(
    ('strides', 'image_dilation', 'kernel_dilation', 'groups'),
    [
        ((1, 1), (1, 1), (1, 1), 1),
        ((2, 2), (1, 1), (1, 1), 1),
        ((1, 1), (2, 2), (1, 1), 1),
        ((1, 1), (1, 1), (3, 2), 1),
    ],
)
def test_convolution_flops_equal_those_of_the_compiler(
    strides, image_dilation, kernel_dilation, groups
):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            [(3, 1), (0, 2)],
            lhs_dilation=image_dilation,
            rhs_dilation=kernel_dilation,
            feature_group_count=groups,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    compiled = jax.jit(convolve).lower(jnp.zeros((2, 11, 14, 6)), jnp.zeros((3, 5, 6, 4))).compile()
    (product,) = find_products(parse_module(compiled.as_text()))
    # XLA's count includes some flops of layout changes.
    assert product.flops == pytest.approx(compiled.cost_analysis()['flops'], rel=0.02)


def test_matrix_products_in_a_loop_count_every_pass():
    def multiply(x, matrices):
        return jax.lax.scan(lambda carry, matrix: (carry @ matrix, None), x, matrices)[0]

    module = parse_module(compile_text(multiply, jnp.zeros((3, 64)), jnp.zeros((7, 64, 64))))
    assert sum(p.count * p.flops for p in find_products(module)) == 7 * 2 * 3 * 64 * 64
    assert [loop.num_trips for loop in find_loops(module)] == [7]


def test_gathers_scatters_and_loops_of_unknown_length_are_found():
    def scramble(x, index):
        x = x.at[index].add(jnp.sin(x)[index[::-1]])
        return jax.lax.while_loop(lambda c: jnp.max(c) < 10, lambda c: c * 1.5, x)

    module = parse_module(compile_text(scramble, jnp.ones((300, 8)), jnp.zeros(40, jnp.int32)))
    assert {(x.kind, x.num_indices) for x in find_lookups(module)} >= {('gather', 40)}
    assert None in [loop.num_trips for loop in find_loops(module)]


def test_collectives_of_two_devices_are_summed():
    mesh = make_mesh(devices=jax.devices()[:2])
    x = jax.device_put(jnp.zeros((8, 5)), NamedSharding(mesh, P('data')))
    found = find_collectives(parse_module(compile_text(lambda x: x.sum(0), x)))
    assert summarize_collectives(found) == {'all-reduce': {'count': 1, 'bytes': 20}}
    assert found[0].group_size == 2


def test_seconds_on_the_interconnect():
    chip = chips.CHIPS['v5e']
    # A corner of a 2x2 or 4x4 slice has two neighbours; only a row of 16 has a wrap-around link.
    assert chip.egress_bytes_per_second((2, 2)) == chip.egress_bytes_per_second((4, 4)) == 100e9
    assert chip.egress_bytes_per_second((16, 16)) == 200e9
    assert chips.CHIPS['v4'].egress_bytes_per_second((4, 4, 4)) == 300e9
    assert (chip.count_hops((4, 4)), chip.count_hops((16, 16))) == (6, 16)
    reduce = Collective('all-reduce', '', 1, 10**9, 4)
    assert reduce.estimate_seconds(chip, (2, 2)) == pytest.approx(2 * (0.75e9 / 100e9 + 2e-6))
    assert Collective('all-reduce', '', 1, 10**9, 1).estimate_seconds(chip, (2, 2)) == 0


def test_topologies_are_checked(monkeypatch):
    for name in ('v9:2x2', 'v5e', 'v5e:4y4', 'cpu:0'):
        with pytest.raises(ValueError, match='must be one of v4, v5e'):
            topology.make_topology(name)
    with pytest.raises(ValueError, match='fewer than 99'):
        topology.make_topology('cpu:99')
    monkeypatch.setattr(topology.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "jax\[tpu\]"'):
        topology.make_topology('v5e:2x2')


def test_missing_splits_are_outlined(data, tmp_path):
    experiment = tiny.make_experiment(data)
    assert find_split(experiment, 'train').max_size == (48, 64)
    experiment = tiny.make_experiment(tmp_path / 'none', data__canvas_height_px=50)
    split = find_split(experiment, 'train')
    assert (split.max_size, split.spec.num_classes) == ((50, 33), 14)
    assert find_split(experiment, 'val', (70, 90)).max_size == (70, 90)
    # Images of a known dataset may be larger than the crop.
    split = find_split(tiny.make_experiment(tmp_path / 'none', data__num_classes=19), 'val')
    assert (split.max_size, split.spec.name) == ((1024, 2048), 'cityscapes')
    with pytest.raises(ValueError, match='set config.data.num_classes'):
        find_split(tiny.make_experiment(tmp_path / 'none', data__num_classes=0), 'train')


def test_programs_need_no_data(tmp_path):
    experiment = tiny.make_experiment(tmp_path / 'none')
    splits = [find_split(experiment, name) for name in ('train', 'val')]
    programs = make_programs(experiment, make_mesh(1, 1, devices=tiny.one_device()), *splits)
    assert set(programs) == {'train', 'eval', 'postprocess'}


def test_a_program_that_exceeds_the_memory_is_reported():
    def refuse(_):
        raise jax.errors.JaxRuntimeError(
            'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.'
        )

    devices = topology.make_topology('cpu:1')
    program = Program('train', None, (), 8, (33, 33))
    object.__setattr__(program, 'compile', refuse)
    plan = analysis.plan_program(program, None, devices)
    assert (plan.fits, plan.bytes_per_chip) == (False, 20.5 * 2**30)
    report = make_report([plan], devices, config='a.py', num_steps=10, versions={'jax': '1'})
    assert report['fits'] is False and report['programs']['train']['schedule_hours'] is None
    assert '20.50 of 16.00 GiB per chip: DOES NOT FIT' in format_report(report)


def make_example(**changes):
    """Makes the report of a train step with round numbers."""
    plan = {
        'size': [641, 641],
        'num_images': 16,
        'num_steps': 9000,
        'bytes_per_chip': 20 * 2**30,
        'flops': 16e11,
        'flops_per_image': 1e11,
        'bytes_per_image': 8.19e9,
        **changes,
    }
    return {
        'config': 'configs/a.py',
        'topology': 'v5e:2x2',
        'num_chips': 4,
        'programs': {'train': plan},
    }


def test_plans_are_compared_at_the_rates_of_other_chips():
    assert compare.estimate_images_per_second(make_example(), 'train', 'v5e') == (
        pytest.approx(100),
        'hbm',
    )
    dense = make_example(bytes_per_image=1e6)
    assert compare.estimate_images_per_second(dense, 'train', 'v5e') == (
        pytest.approx(1970),
        'compute',
    )
    text = compare.format_comparison([make_example(), dense])
    # 20 GiB exceed the memory of a v5e. 144,000 images take 1440 seconds at 100 per second.
    assert (
        '| `a.py` | v5e:2x2 | 641x641 | 4 | 100 | 8.19 | 20.0 | 147 | (100) | 338 | 200 | 901 |'
        in text
    )
    assert '| 2,750 c | (1,970 c) |' in text
    assert '| `a.py` | 9,000 | 16 | 0.27 | 0.4 | 0.12 | 0.2 | 0.044 |' in text
    with pytest.raises(ValueError, match="no program 'eval'"):
        compare.format_comparison([make_example()], program='eval')
    with pytest.raises(ValueError, match='does not fit on v5e:2x2'):
        compare.format_comparison([make_example(flops=None)])


def test_saved_plans_are_compared(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(make_example()))
    assert compare.compare_plans([path, path]) == compare.format_comparison([make_example()] * 2)
    path.write_text('{"flops": 1}')
    with pytest.raises(ValueError, match='a.json is not a plan'):
        compare.compare_plans([path])
    path.write_text('nothing')
    with pytest.raises(ValueError, match='a.json is not valid JSON'):
        compare.compare_plans([path])
    for fields in ({'programs': 3}, {'num_chips': 0}, {'programs': {'train': []}}, {'config': 1}):
        path.write_text(json.dumps({**make_example(), **fields}))
        with pytest.raises(ValueError, match='a.json is not a plan'):
            compare.compare_plans([path])


def test_documented_plans_are_those_of_the_json_files():
    folder = tiny.ROOT / 'docs' / 'plans'
    for path in folder.glob('*.json'):
        text = path.with_suffix('.txt').read_text()
        assert format_report(json.loads(path.read_text())) == text.removesuffix('\n')
    names = ('coco_v5e_2x2', 'coco_mobilenet_v3_v5e_2x2', 'cityscapes_v5e_4x4')
    names += ('coco_kmax_641_v5e_2x2', 'coco_kmax_v5e_2x2')
    paths = [folder / f'{name}.json' for name in names]
    scaling = (tiny.ROOT / 'docs' / 'scaling.md').read_text()
    assert compare.compare_plans(paths) in scaling
    assert compare.compare_plans(paths[:2] + paths[3:], program='eval') in scaling


@pytest.mark.slow
def test_command_plans_a_run(tmp_path, capsys):
    fields = {
        **tiny.overrides(tmp_path / 'none'),
        # Few layers compile fast.
        'model.backbone': 'resnet18',
        'model.width_multiplier': 0.125,
        'model.decoder': 'lr_aspp',
        'model.aspp_rates': (),
        'model.has_instances': False,
        'optimizer.ema_decay': 0.0,
    }
    path = tmp_path / 'plan.json'
    flags = [f'--config.{key}={value}' for key, value in fields.items()]
    main(['plan', '--config=scenes', '--topology=cpu:2', f'--json={path}', *flags])
    printed = capsys.readouterr().out
    report = json.loads(path.read_text())
    train, evaluation = report['programs']['train'], report['programs']['eval']
    assert report['fits'] is True and report['num_chips'] == 2 and report['is_simulated'] is True
    assert report['bound'] in ('compute', 'hbm', 'interconnect')
    assert (report['flops'], report['step_seconds']) == (
        train['flops'],
        max(train['seconds'].values()),
    )
    assert report['bytes_per_chip'] == max(p['bytes_per_chip'] for p in report['programs'].values())
    assert train['num_images'] == 8 and train['schedule_hours'] == pytest.approx(
        6 * train['step_seconds'] / 3600
    )
    # The backward pass costs more than the forward pass; the chips sum their gradients.
    assert 1.5 < train['flops_per_image'] / evaluation['flops_per_image'] < 6
    assert train['collectives']['all-reduce']['bytes'] > 100_000
    assert evaluation['collectives'].get('all-reduce', {'bytes': 0})['bytes'] < 100_000
    # The two moments of Adam stay in memory during an evaluation.
    assert evaluation['memory']['resident'] > evaluation['memory']['arguments'] / 4
    assert 0 < train['padding']['waste'] < 1
    for text in (
        'train step: 8 images of 33x33, 4 per chip',
        'eval step',
        'post-processing alone',
        'at best',
    ):
        assert text in printed


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            ['--topology=cpu:1', '--programs=train,sleep'],
            'must name some of train,eval,postprocess',
        ),
        (['--topology=tpu:2x2'], "topology 'tpu:2x2' must be one of"),
        (['--topology=cpu:1', '--config.train.batch_siz=1'], 'Did you mean "batch_size"'),
        (['--topology=cpu:3'], 'config.train.batch_size (=16) must be a multiple of the 3'),
        (['--topology=cpu:1', '--config=configs/none.py'], 'no such configuration'),
        ([], 'give --config and --topology, or --compare'),
    ],
)
def test_command_explains_mistakes(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(['plan', '--config=scenes', *flags])
    assert end.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith('pdl_jax: ')]
    assert line.startswith('error: ') and message in line
