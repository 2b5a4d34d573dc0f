"""Checkpoints of DeepLab2 are read and mapped; their keys follow from its classes' attributes."""

import jax
import numpy as np
import pytest

from pdl_jax.convert.conversion import choose_network, compare, guess_network, has_folded_norm, load
from pdl_jax.convert.readers import Contents, read_file
from pdl_jax.convert.source import Network
from pdl_jax.convert.sources import SOURCES
from pdl_jax.presets import make_options

SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
SOURCE = SOURCES['deeplab2']
# Per block: kernel size, channels, expanded channels, channels of squeeze-and-excite (0 for none).
SMALL = [
    (3, 16, 16, 8),
    (3, 24, 72, 0),
    (3, 24, 88, 0),
    (5, 40, 96, 24),
    (5, 40, 240, 64),
    (5, 40, 240, 64),
    (5, 48, 120, 32),
    (5, 48, 144, 40),
    (5, 96, 288, 72),
    (5, 96, 576, 144),
    (5, 96, 576, 144),
]
LARGE = [
    (3, 16, 16, 0),
    (3, 24, 64, 0),
    (3, 24, 72, 0),
    (5, 40, 72, 24),
    (5, 40, 120, 32),
    (5, 40, 120, 32),
    (3, 80, 240, 0),
    (3, 80, 200, 0),
    (3, 80, 184, 0),
    (3, 80, 184, 0),
    (3, 112, 480, 120),
    (3, 112, 672, 168),
    (5, 160, 672, 168),
    (5, 160, 960, 240),
    (5, 160, 960, 240),
]


def norm(name, channels):
    return {
        f'{name}/_batch_norm/{field}': (channels,)
        for field in ('gamma', 'beta', 'moving_mean', 'moving_variance')
    }


def conv(name, kernel, inputs, outputs):
    return {f'{name}/_conv/kernel': (kernel, kernel, inputs, outputs), **norm(name, outputs)}


def biased(name, kernel, inputs, outputs):
    return {f'{name}/kernel': (kernel, kernel, inputs, outputs), f'{name}/bias': (outputs,)}


def depthwise(name, kernel, channels):
    return {
        f'{name}/_depthwise_conv/depthwise_kernel': (kernel, kernel, channels, 1),
        **norm(name, channels),
    }


def separable(name, inputs, outputs):
    return {
        **depthwise(f'{name}/_depthwise', 5, inputs),
        **conv(f'{name}/_pointwise', 1, inputs, outputs),
    }


def list_resnet(is_beta):
    if is_beta:
        keys = {**conv('_stem/_conv1_bn_act', 3, 3, 64), **conv('_stem/_conv2_bn_act', 3, 64, 64)}
        keys |= conv('_stem/_conv3_bn', 3, 64, 128)
    else:
        keys = conv('_stem', 7, 3, 64)
    inputs = 128 if is_beta else 64
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 2):
        for block in range(1, count + 1):
            name = f'_stage{stage}/_block{block}'
            keys |= conv(f'{name}/_conv1_bn_act', 1, inputs, width) | conv(
                f'{name}/_conv2_bn_act', 3, width, width
            )
            keys |= conv(f'{name}/_conv3_bn', 1, width, 4 * width)
            if block == 1:
                keys |= conv(f'{name}/_shortcut', 1, inputs, 4 * width)
            inputs = 4 * width
    return keys


def list_wide_resnet(is_switchable):
    keys, inputs = conv('_stem', 3, 3, 64), 64

    def spatial(name, inputs, outputs, is_strided):
        found = conv(name, 3, inputs, outputs)
        if is_switchable and stage == 5:
            found |= biased(f'{name}/_pre_global_context/convolution', 1, inputs, inputs)
            found |= biased(f'{name}/_post_global_context/convolution', 1, outputs, outputs)
            if not is_strided:
                found |= biased(f'{name}/_conv/_switch', 1, inputs, 1)
        return found

    for stage, count in enumerate((3, 3, 6, 3, 3), 1):
        width = (128, 256, 512, 1024, 2048)[stage - 1]
        for block in range(1, count + 1):
            name = f'_stage{stage}/_block{block}'
            if stage < 5:
                keys |= spatial(f'{name}/_conv1_bn_act', inputs, width, False) | spatial(
                    f'{name}/_conv2_bn', width, width, False
                )
            else:
                keys |= conv(f'{name}/_conv1_bn_act', 1, inputs, 512) | spatial(
                    f'{name}/_conv2_bn_act', 512, 1024, False
                )
                keys |= conv(f'{name}/_conv3_bn', 1, 1024, 2048)
            if inputs != width:
                keys |= conv(f'{name}/_shortcut', 1, inputs, width)
            inputs = width
    return keys


def list_mobilenet(rows):
    keys, inputs = conv('_blocks/0', 3, 3, 16), 16
    for i, (kernel, outputs, expanded, bottleneck) in enumerate(rows, 1):
        name = f'_blocks/{i}'
        if expanded != inputs:
            keys |= conv(f'{name}/_conv1_bn_act', 1, inputs, expanded)
        keys |= depthwise(f'{name}/_conv2_bn_act', kernel, expanded)
        if bottleneck:
            keys |= biased(f'{name}/_squeeze_excitation/_se_reduce', 1, expanded, bottleneck)
            keys |= biased(f'{name}/_squeeze_excitation/_se_expand', 1, bottleneck, expanded)
        keys |= conv(f'{name}/_conv3_bn', 1, expanded, outputs)
        inputs = outputs
    return keys | conv(f'_blocks/{len(rows) + 1}', 1, inputs, 6 * inputs)


def list_decoder(branch, features, projected, width):
    aspp = f'{branch}_decoder/_aspp'
    keys = {
        **conv(f'{aspp}/_conv_bn_act', 1, features[-1], 256),
        **conv(f'{aspp}/_proj_conv_bn_act', 1, 1280, 256),
    }
    for i in (1, 2, 3):
        keys |= conv(f'{aspp}/_aspp_conv{i}/_conv_bn_act', 3, features[-1], 256)
    keys |= conv(f'{aspp}/_aspp_pool/_conv_bn_act', 1, features[-1], 256)
    for i, (skip, channels, inputs) in enumerate(
        zip((features[1], features[0]), projected, (256, width), strict=True), 1
    ):
        keys |= conv(f'{branch}_decoder/_low_level_conv{i}', 1, skip, channels)
        keys |= separable(
            f'{branch}_decoder/_fusion_conv{i}/_conv1_bn_act', inputs + channels, width
        )
    return keys


def list_network(encoder, features, num_classes, has_instances=True):
    keys = {f'encoder/{key}': shape for key, shape in encoder.items()}
    keys |= list_decoder('semantic', features, (64, 32), 256)
    keys |= separable('semantic_head_without_last_layer/_conv1_bn_act', 256, 256)
    keys |= biased('semantic_last_layer', 1, 256, num_classes)
    if has_instances:
        keys |= list_decoder('instance', features, (32, 16), 128)
        for name, outputs in (('center', 1), ('regression', 2)):
            keys |= separable(f'instance_{name}_head_without_last_layer/_conv1_bn_act', 128, 32)
            keys |= biased(f'instance_{name}_head_last_layer', 1, 32, outputs)
    return keys


def make_contents(keys):
    """Returns shapes instead of arrays, with the other keys that training writes."""
    keys = {f'{key}{SUFFIX}': shape for key, shape in keys.items()}
    slots = {
        f'{key.removesuffix(SUFFIX)}/.OPTIMIZER_SLOT/optimizer/m{SUFFIX}': shape
        for key, shape in list(keys.items())[:3]
    }
    others = {
        f'optimizer/iter{SUFFIX}': (),
        f'global_step{SUFFIX}': (),
        '_CHECKPOINTABLE_OBJECT_GRAPH': (),
    }
    shapes = {**keys, **slots, **others, f'save_counter{SUFFIX}': ()}
    return Contents({key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in shapes.items()})


RESNET = (256, 512, 2048)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('preset', 'keys', 'num_classes'),
    [
        ('resnet50_os32', list_network(list_resnet(False), RESNET, 19), 19),
        ('resnet50_beta_os16', list_network(list_resnet(True), RESNET, 134), 134),
        ('resnet50_os32_semantic', list_network(list_resnet(False), RESNET, 19, False), 19),
        ('mobilenet_v3_small_os16', list_network(list_mobilenet(SMALL), (16, 88, 576), 19), 19),
        ('mobilenet_v3_large_os32', list_network(list_mobilenet(LARGE), (72, 120, 960), 19), 19),
        ('wide_resnet41_os16', list_network(list_wide_resnet(False), RESNET, 19), 19),
        ('swidernet_sac_1_1_1_os16', list_network(list_wide_resnet(True), RESNET, 19), 19),
    ],
)
def test_whole_networks_are_accounted_for(preset, keys, num_classes):
    contents = make_contents(keys)
    conversion = choose_network(contents, SOURCE, f'deeplab2/{preset}')
    account = conversion.account
    assert not account.num_faults, (account.unexpected, account.missing, account.mismatched)
    assert (conversion.num_classes, conversion.is_backbone_only) == (num_classes, False)
    assert len(account.loaded) == len(keys)
    reasons = {reason: len(found) for reason, found in account.ignored.items()}
    assert reasons == {
        'an optimiser slot of a variable': 3,
        'a variable of the optimiser': 1,
        'a counter of steps or saves': 2,
        "TensorFlow's index of variables": 1,
    }


def test_output_stride_is_asked_for_where_shapes_do_not_show_it():
    contents = make_contents(list_network(list_mobilenet(SMALL), (16, 88, 576), 19))
    with pytest.raises(
        ValueError,
        match='choose one with --preset: '
        'deeplab2/mobilenet_v3_small_os32, deeplab2/mobilenet_v3_small_os16',
    ):
        guess_network(contents, SOURCE)


@pytest.mark.parametrize('prefix', ['encoder', 'backbone/_encoder'])
def test_imagenet_files_hold_a_backbone(prefix):
    contents = make_contents(
        {f'{prefix}/{key}': shape for key, shape in list_mobilenet(LARGE).items()}
    )
    conversion = guess_network(contents, SOURCE)
    assert conversion.network.name == 'imagenet/mobilenet_v3_large' and conversion.is_backbone_only
    options = conversion.network.options
    gate, epsilon = options.backbone.squeeze_excite_gate, options.backbone.norm_epsilon
    assert (options.normalization, gate, epsilon) == (
        'unit',
        'sigmoid',
        1e-3,
    )


def test_a_wrong_network_is_told_apart():
    contents = make_contents(list_network(list_resnet(False), RESNET, 19))
    conversion = compare(
        contents,
        SOURCE,
        Network('deeplab2/resnet50_beta_os32', make_options('deeplab2/resnet50_beta_os32')),
    )
    account = conversion.account
    assert f'encoder/_stem/_conv/kernel{SUFFIX}' in account.unexpected
    assert 'params/backbone/stem_1/conv/kernel' in account.missing
    # The stem of the beta variant has 128 output channels.
    mismatch = next(
        m
        for m in account.mismatched
        if m.key == f'encoder/_stage2/_block1/_conv1_bn_act/_conv/kernel{SUFFIX}'
    )
    assert (mismatch.found, mismatch.wanted) == ((1, 1, 64, 64), (1, 1, 128, 64))


def test_a_real_checkpoint_is_read_and_mapped(tmp_path):
    tf = pytest.importorskip(
        'tensorflow', reason="needs TensorFlow: pip install 'pdl_jax[tensorflow]'"
    )
    rng = np.random.default_rng(0)
    keys = list_network(list_mobilenet(SMALL), (16, 88, 576), 19)
    values = {key: rng.normal(size=shape).astype(np.float32) for key, shape in keys.items()}
    root = {}
    for key, value in values.items():
        *parents, name = key.split('/')
        node = root
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = value

    def build(node):
        """Makes modules with the attributes of DeepLab2's layers; MobileNetV3 lists its blocks."""
        module = tf.Module()
        for name, child in node.items():
            if name == '_blocks':
                child = [build(child[str(i)]) for i in range(len(child))]
            else:
                child = build(child) if isinstance(child, dict) else tf.Variable(child)
            setattr(module, name, child)
        return module

    items = {name: build(child) for name, child in root.items()}
    checkpoint = tf.train.Checkpoint(**items, global_step=tf.Variable(60000, dtype=tf.int64))
    path = checkpoint.save(str(tmp_path / 'ckpt'))
    contents = read_file(path)
    conversion = choose_network(contents, SOURCE, 'deeplab2/mobilenet_v3_small_os16')
    assert not conversion.account.num_faults
    assert sorted(sum(conversion.account.ignored.values(), [])) == [
        '_CHECKPOINTABLE_OBJECT_GRAPH',
        f'global_step{SUFFIX}',
        f'save_counter{SUFFIX}',
    ]
    variables = load(conversion, contents)
    assert not has_folded_norm(variables)
    params, statistics = variables['params'], variables['batch_stats']
    for found, key in (
        (params['backbone']['stem']['conv']['kernel'], 'encoder/_blocks/0/_conv/kernel'),
        (
            params['backbone']['block_3']['squeeze_excite']['reduce']['bias'],
            'encoder/_blocks/4/_squeeze_excitation/_se_reduce/bias',
        ),
        (
            statistics['backbone']['last_conv']['norm']['var'],
            'encoder/_blocks/12/_batch_norm/moving_variance',
        ),
        (
            params['semantic_decoder']['aspp']['branch_2']['conv']['kernel'],
            'semantic_decoder/_aspp/_aspp_conv2/_conv_bn_act/_conv/kernel',
        ),
        (
            params['instance_decoder']['project_stride4']['norm']['scale'],
            'instance_decoder/_low_level_conv2/_batch_norm/gamma',
        ),
        (params['center_head']['predict']['kernel'], 'instance_center_head_last_layer/kernel'),
        (params['offset_head']['predict']['bias'], 'instance_regression_head_last_layer/bias'),
    ):
        np.testing.assert_array_equal(found, values[key])
    np.testing.assert_array_equal(
        params['backbone']['block_3']['depthwise']['conv']['kernel'][:, :, 0],
        values['encoder/_blocks/4/_conv2_bn_act/_depthwise_conv/depthwise_kernel'][..., 0],
    )
