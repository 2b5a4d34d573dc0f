"""The conversion command: from a file to a checkpoint for prediction or for training."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pdl_jax.commands.command_line import main
from pdl_jax.convert import classes
from pdl_jax.convert.sources import SOURCES
from pdl_jax.data import catalog
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.model_backbone import describe_backbone
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.presets import make_options
from pdl_jax.storage.checkpoint import find_checkpoint, read_description, read_structure
from pdl_jax.training.initialize import load_initial_variables
from tests import tiny

PRESET = 'tensorflow/deeplab_v3_mobilenet_v2_os16'
RESNET18 = 'imagenet/resnet18'
LAYERS = [
    'backbone/stem',
    *(
        f'backbone/block_{i}/{part}'
        for i in range(17)
        for part in ('expand', 'depthwise', 'project')
        if i or part != 'expand'
    ),
    'semantic_decoder/aspp/branch_0',
    'semantic_decoder/aspp/pool',
    'semantic_decoder/aspp/project',
]


def make_variables(num_classes, preset=PRESET, **overrides):
    model = DeepLab(num_classes, make_options(preset, **overrides))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))


@pytest.fixture(scope='module')
def arrays():
    """DeepLabv3 on MobileNetV2 with 21 classes, folded, layer by layer."""
    params = flatten_dict(make_variables(21)['params'], sep='/')
    rng = np.random.default_rng(0)
    found = {}
    for i, layer in enumerate(LAYERS):
        shape = params[f'{layer}/conv/kernel'].shape
        found[f'{i:02}.conv.kernel'] = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(
            np.float32
        )
        found[f'{i:02}.conv.bias'] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
    found[f'{len(LAYERS)}.conv.kernel'] = rng.normal(0, 0.1, (1, 1, 256, 21)).astype(np.float32)
    found[f'{len(LAYERS)}.conv.bias'] = np.zeros(21, np.float32)
    return found


def run(arrays, folder, *flags, name='out'):
    np.savez(folder / 'in.npz', **arrays)
    files = [f'--input={folder / "in.npz"}', f'--output={folder / name}']
    main(['convert', '--from=tensorflow', *files, *flags])
    return folder / name


def run_failing(arrays, folder, capsys, *flags):
    with pytest.raises(SystemExit) as failure:
        run(arrays, folder, *flags)
    assert failure.value.code == 2
    assert not (folder / 'out' / 'checkpoints').exists()
    return capsys.readouterr().err


@pytest.mark.slow
def test_whole_network_becomes_a_checkpoint_that_predicts(arrays, tmp_path, capsys):
    out = run(arrays, tmp_path, '--dataset=voc')
    printed = capsys.readouterr().out
    assert 'loaded: 00.conv.kernel -> params/backbone/stem/conv/kernel\n' in printed
    assert 'loaded 272, ignored 0, unexpected 0, missing 0, of wrong shape 0\n' in printed
    assert f'in.npz is {PRESET}, 21 classes' in printed
    description = read_description(find_checkpoint(out))
    assert description['origin'] == {
        'source': 'tensorflow',
        'file': str(tmp_path / 'in.npz'),
        'preset': PRESET,
        'is_partial': False,
        'has_folded_norm': True,
        'backbone': {
            'backbone': 'mobilenet_v2',
            'normalization': 'unit',
            'norm_epsilon': 1e-3,
            'padding': 'same',
        },
    }
    assert description['config']['model']['freeze_backbone_norm']
    # The pooling window has the size of VOC's crops.
    assert description['config']['augment']['crop_height_px'] == 513
    predictor = Predictor.load(out)
    assert (
        predictor.spec.class_names[:2] == ('background', 'aeroplane')
        and not predictor.spec.label_format.thing_classes
    )
    result = predictor(np.random.default_rng(0).integers(0, 255, (33, 33, 3)).astype(np.uint8))
    assert result.is_semantic and result.panoptic.shape == (33, 33)


def test_outputs_are_not_overwritten(arrays, tmp_path, capsys):
    (tmp_path / 'out' / 'checkpoints' / '3').mkdir(parents=True)
    with pytest.raises(SystemExit):
        run(arrays, tmp_path)
    assert 'holds checkpoints already: choose another --output' in capsys.readouterr().err


def test_unexpected_keys_fail_unless_allowed(arrays, tmp_path, capsys):
    arrays = {**arrays, 'strange': np.zeros(3, np.float32)}
    error = run_failing(arrays, tmp_path, capsys, f'--preset={PRESET}')
    assert (
        '1 keys are unexpected: strange (no rule matches it). Choose another --preset or --from, '
        'or leave them out' in error
    )
    assert 'choose one with --preset' in run_failing(arrays, tmp_path, capsys)
    run(arrays, tmp_path, f'--preset={PRESET}', '--allow_unexpected')
    assert 'unexpected: strange (no rule matches it)\n' in capsys.readouterr().out


def test_missing_variables_fail_unless_allowed_and_leave_a_part(arrays, tmp_path, capsys):
    arrays = {key: value for key, value in arrays.items() if not key.startswith(str(len(LAYERS)))}
    error = run_failing(arrays, tmp_path, capsys, f'--preset={PRESET}')
    assert '2 variables of the network of' in error and 'params/semantic_head/predict/bias' in error
    out = run(arrays, tmp_path, f'--preset={PRESET}', '--allow_missing')
    description = read_description(find_checkpoint(out))
    assert description['origin']['is_partial'] and 'config' not in description
    loaded, report = load_initial_variables(out, make_variables(5))
    assert report.is_partial and report.has_folded_norm
    assert set(report.left_out) == {
        'params/semantic_head/predict/bias',
        'params/semantic_head/predict/kernel',
    }
    np.testing.assert_array_equal(
        loaded['params']['backbone']['stem']['conv']['kernel'], arrays['00.conv.kernel']
    )


def test_other_shapes_name_key_shapes_and_remedy(arrays, tmp_path, capsys):
    error = run_failing(
        {**arrays, '00.conv.bias': np.zeros(16, np.float32)}, tmp_path, capsys, f'--preset={PRESET}'
    )
    assert (
        '00.conv.bias has shape [16], which becomes [16] for params/backbone/stem/norm/bias of '
        'shape [32]' in error
    )
    assert 'Choose another --preset or --from' in error


def test_dataset_has_to_have_the_classes_of_the_head(arrays, tmp_path, capsys):
    assert 'has 21 classes, --dataset=cityscapes 19' in run_failing(
        arrays, tmp_path, capsys, '--dataset=cityscapes'
    )
    assert (
        'is neither one of ade20k, cityscapes, coco, coco_ids, kitti_step, voc nor'
        in run_failing(arrays, tmp_path, capsys, '--dataset=absent')
    )


def test_classes_that_nothing_names_get_neutral_names(arrays, tmp_path, capsys):
    out = run(arrays, tmp_path)
    printed = capsys.readouterr().out
    assert "nothing says what its 21 classes are, so they are called 'class 0' to 'class 20'" in (
        printed
    )
    assert '--dataset=voc or --dataset=FILE.json' in printed
    spec = DatasetSpec.from_dict(read_description(find_checkpoint(out))['dataset'])
    assert spec.class_names == tuple(f'class {i}' for i in range(21))
    named = [{'id': 3 * i, 'name': f'plant {i}', 'isthing': 0} for i in range(21)]
    (tmp_path / 'plants.json').write_text(json.dumps({'categories': named}))
    flags = [f'--dataset={tmp_path / "plants.json"}', '--config=voc_semantic']
    out = run(arrays, tmp_path, *flags, f'--preset={PRESET}', name='named')
    spec = DatasetSpec.from_dict(read_description(find_checkpoint(out))['dataset'])
    assert spec.class_names[:2] == ('plant 0', 'plant 1')


def test_fields_of_one_network_are_kept(arrays, tmp_path, monkeypatch):
    fields = {'postprocess.nms_kernel_px': 9}
    source = dataclasses.replace(SOURCES['tensorflow'], network_fields={('voc', PRESET): fields})
    monkeypatch.setitem(SOURCES, 'tensorflow', source)
    description = read_description(find_checkpoint(run(arrays, tmp_path, '--dataset=voc')))
    assert description['config']['postprocess']['nms_kernel_px'] == 9


def test_file_of_another_source_is_told_which(tmp_path, capsys):
    rng = np.random.default_rng(0)
    shapes = make_torchvision_shapes()
    arrays = {key: rng.normal(0, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}
    np.savez(tmp_path / 'in.npz', **arrays)
    files = [f'--input={tmp_path / "in.npz"}', f'--output={tmp_path / "out"}']
    with pytest.raises(SystemExit):
        main(['convert', '--from=bowenc0221', *files])
    assert 'is no network of --from=bowenc0221, but one of --from=torchvision' in (
        capsys.readouterr().err
    )


def make_torchvision_shapes():
    """Shapes of torchvision's ResNet-18, without its classifier."""
    shapes = {}

    def add(conv, norm, kernel):
        shapes[f'{conv}.weight'] = kernel
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{norm}.{name}'] = kernel[:1]

    add('conv1', 'bn1', (64, 3, 7, 7))
    width = 64
    for stage, out in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            path = f'layer{stage}.{block}'
            add(f'{path}.conv1', f'{path}.bn1', (out, width, 3, 3))
            add(f'{path}.conv2', f'{path}.bn2', (out, out, 3, 3))
            if width != out:
                add(f'{path}.downsample.0', f'{path}.downsample.1', (out, width, 1, 1))
            width = out
    return shapes


def test_averaged_weights_are_taken_when_asked_for(tmp_path, capsys):
    """A training checkpoint of a wrapped network, with both kinds of weights."""
    shapes = make_torchvision_shapes()

    def fill(value, prefix):
        return {f'{prefix}{k}': np.full(shape, value, np.float32) for k, shape in shapes.items()}

    content = {
        'model': fill(1, 'module.model.'),
        'model_ema': fill(2, 'module.'),
        'epoch': 3,
        'best_acc1': np.float32(0.5),
        'optimizer': {'state': {0: {'exp_avg': np.zeros(3, np.float32)}}},
    }
    (tmp_path / 'w.pth').write_bytes(pickle.dumps(content))
    files = ['--from=torchvision', f'--input={tmp_path / "w.pth"}']

    def convert(name, *flags):
        main(['convert', *files, f'--output={tmp_path / name}', *flags])
        loaded, _ = load_initial_variables(str(tmp_path / name), make_variables(4, RESNET18))
        kernel = loaded['params']['backbone']['stem']['conv']['kernel']
        return capsys.readouterr().out, float(np.unique(kernel)[0])

    printed, value = convert('a')
    assert value == 1 and "takes the weights in 'model'\n" in printed
    assert "--weights=ema takes those in 'model_ema'\n" in printed
    assert 'without the prefixes of wrapping modules: module. model.\n' in printed
    for name in ('epoch', 'best_acc1', 'optimizer'):
        assert f'ignored: {name} (other content of a training checkpoint)' in printed
    printed, value = convert('b', '--weights=ema')
    assert value == 2 and "in 'model_ema', averaged over training steps" in printed
    with pytest.raises(SystemExit):
        main(['convert', '--from=torchvision', '--input=https://a.org/r.pth?x=1', '--output=o'])
    assert (
        "download it first, curl -L -o r.pth 'https://a.org/r.pth?x=1'" in capsys.readouterr().err
    )


def test_configuration_and_prepared_data_can_be_given(arrays, data, tmp_path, capsys):
    """A custom network: 14 classes, which no dataset here has."""
    last = f'{len(LAYERS)}.conv'
    own = {
        **arrays,
        f'{last}.kernel': np.zeros((1, 1, 256, 14), np.float32),
        f'{last}.bias': np.zeros(14, np.float32),
    }
    assert 'no such configuration' in run_failing(own, tmp_path, capsys, '--config=absent.py')
    assert 'needs --config=FILE' in run_failing(own, tmp_path, capsys, f'--dataset={data}')
    flags = [
        f'--config={tiny.ROOT / "configs" / "voc_semantic.py"}',
        f'--preset={PRESET}',
        f'--dataset={data}',
    ]
    description = read_description(find_checkpoint(run(own, tmp_path, *flags)))
    assert description['config']['data']['num_classes'] == 14
    assert 'sheep' in {category['name'] for category in description['dataset']['categories']}


def test_backbone_alone_starts_training_and_nothing_else(arrays, tmp_path, capsys):
    out = run(arrays, tmp_path, '--preset=imagenet/mobilenet_v2')
    assert 'is imagenet/mobilenet_v2, a backbone' in capsys.readouterr().out
    names = read_structure(find_checkpoint(out))
    assert {name.split('/')[1] for name in names} == {'backbone'}
    description = read_description(find_checkpoint(out))
    assert (
        description.keys() == {'format', 'origin', 'program'}
        and description['origin']['is_partial']
    )
    options = make_options('bowenc0221/mobilenet_v2_os32')
    network = make_variables(4, 'bowenc0221/mobilenet_v2_os32')
    loaded, report = load_initial_variables(out, network)
    assert loaded.keys() == {'params', 'batch_stats'} and loaded['params'].keys() == {'backbone'}
    assert all(reason == 'not in the checkpoint' for reason in report.left_out.values())
    assert report.find_differences(describe_backbone(options)) == [
        "the backbone was trained with normalization 'unit', the network has 'imagenet'",
        'the backbone was trained with norm_epsilon 0.001, the network has 1e-05',
        "the backbone was trained with padding 'same', the network has 'symmetric'",
    ]


def test_logits_of_coco_are_told_by_their_number():
    with_void, without = (classes.make_spec('coco', n) for n in (134, 133))
    assert with_void == catalog.coco()
    assert without.class_names == with_void.class_names[1:]
    assert without.class_names[:2] == ('person', 'bicycle') and without.class_names[80] == 'banner'
    # Data prepared with --spec=own have this format.
    own = catalog.get_spec('own', with_void.to_dict()['categories'])
    assert (without.class_names, without.label_format) == (own.class_names, own.label_format)
    for count in (133, 134):
        assert classes.find_dataset(count, 'weights.pth')[0] == 'coco'


def test_command_describes_itself(capsys):
    with pytest.raises(SystemExit) as end:
        main(['convert', '--help'])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    # The command lists the sources without importing their rules.
    assert f'--from {{{",".join(sorted(SOURCES))}}}' in printed
    for flag in (
        '--input',
        '--output',
        '--preset',
        '--config',
        '--dataset',
        '--allow_unexpected',
        '--allow_missing',
    ):
        assert flag in printed
