"""DeepLab v1 and v2 against values of the original program and of a reference for VGG-16."""

import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import check_account, choose_network, load
from pdl_jax.convert.deeplab_pytorch import SOURCE
from pdl_jax.convert.layers import torch_conv
from pdl_jax.convert.rules import load_variables, make_account, under
from pdl_jax.convert.torchvision import VGG16 as VGG16_RULES
from pdl_jax.losses.panoptic_deeplab import LossOptions, panoptic_loss
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.ops.resize import resize_by_factor, resize_labels
from pdl_jax.presets import make_options
from tests.convert.compiling import run_fast
from tests.golden_rule import load_rule

NUM_CLASSES = 21
V2 = 'state_dict_v2_resnet101_msc_voc'


def read_golden(shared_dir, name):
    with np.load(shared_dir / 'golden' / 'deeplab_v1_v2' / f'{name}.npz') as file:
        return {key: file[key].transpose(0, 2, 3, 1) for key in file.files}


def draw_image(shared_dir, size):
    """f32[1, H, W, 3] in the order of Caffe, BGR."""
    image = load_rule(shared_dir).image('image', (1, 3, *size), 0) * 60
    return image.transpose(0, 2, 3, 1)


def draw_weights(shared_dir, shapes):
    rule = load_rule(shared_dir)
    arrays = {key: rule.value(key, shape, 0) for key, shape in shapes.items()}
    for key in arrays:
        if key.endswith('increase.bn.weight'):
            arrays[key] = arrays[key] * np.float32(0.5)
    return arrays


def read_shapes(shared_dir, is_v1=False):
    """Keys and shapes of the published file of v2; those of v1 differ in the last layer."""
    with gzip.open(shared_dir / 'golden' / 'deeplab_v1_v2' / f'{V2}.json.gz') as file:
        shapes = {key: tuple(shape) for key, shape in json.load(file).items()}
    if not is_v1:
        return shapes
    shapes = {key.removeprefix('base.'): s for key, s in shapes.items() if '.aspp.' not in key}
    return {**shapes, 'fc.weight': (NUM_CLASSES, 2048, 1, 1), 'fc.bias': (NUM_CLASSES,)}


def convert(arrays, preset):
    conversion = choose_network(Contents(arrays), SOURCE, preset)
    check_account(conversion)
    return conversion, load(conversion, Contents(arrays))


def check_close(found, wanted, tolerance=1e-4):
    """The limit of the reference is 1e-3 of the maximum, that of the requirement 1e-4."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.slow
def test_v2_fuses_the_logits_of_three_scales(shared_dir):
    golden = read_golden(shared_dir, 'v2_resnet101_msc_97x129')
    arrays = draw_weights(shared_dir, read_shapes(shared_dir))
    conversion, variables = convert(arrays, 'deeplab_pytorch/deeplab_v2_resnet101_os8')
    model = DeepLab(NUM_CLASSES, conversion.network.options, freeze_backbone_norm=True)

    def run(variables, image):
        return model.apply(variables, image, train=True)

    image = draw_image(shared_dir, (97, 129))[..., ::-1]
    outputs = run_fast(run, variables, image)
    for i in range(3):
        check_close(np.asarray(outputs[f'semantic_{i}']), golden[f'scale{i}'])
    check_close(np.asarray(outputs['semantic']), golden['scale3'])
    check_close(np.asarray(outputs['semantic']), golden['logits'])


@pytest.mark.slow
def test_v1_on_resnet101(shared_dir):
    golden = read_golden(shared_dir, 'v1_resnet101_65x80')
    arrays = draw_weights(shared_dir, read_shapes(shared_dir, is_v1=True))
    conversion, variables = convert(arrays, 'deeplab_pytorch/deeplab_v1_resnet101_os8')
    model = DeepLab(NUM_CLASSES, conversion.network.options)
    image = draw_image(shared_dir, (65, 80))[..., ::-1]
    outputs = run_fast(model.apply, variables, image)
    assert outputs.keys() == {'semantic'}
    check_close(np.asarray(outputs['semantic']), golden['logits'])


# Rules of the reference for VGG-16, which nobody publishes: fc6, fc7 and fc8 of each branch.
BRANCH_RULES = tuple(
    rule
    for index, name in ((0, 'fc6'), (2, 'fc7'), (4, 'predict'))
    for rule in torch_conv(rf'branches\.(\d)\.{index}', f'semantic_decoder/branch_{{1+1}}/{name}')
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'preset'),
    [
        ('own_vgg16_largefov_97x65', 'caffe/deeplab_v1_vgg16_largefov_os8'),
        ('own_vgg16_aspp_l_97x65', 'caffe/deeplab_v2_vgg16_aspp_l_os8'),
    ],
)
def test_vgg16(shared_dir, name, preset):
    golden = read_golden(shared_dir, name)
    model = DeepLab(NUM_CLASSES, make_options(preset))
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 65, 65, 3)))
    convolutions = {}
    for stage, indices in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)), 1):
        for i, index in enumerate(indices, 1):
            convolutions[f'features.{index}'] = ('backbone', f'stage{stage}_conv{i}')
    for branch in range(len(model.options.aspp_rates)):
        for index, layer in ((0, 'fc6'), (2, 'fc7'), (4, 'predict')):
            path = ('semantic_decoder', f'branch_{branch + 1}', layer)
            convolutions[f'branches.{branch}.{index}'] = path
    shapes = {}
    for key, path in convolutions.items():
        layer = functools.reduce(lambda tree, part: tree[part], path, variables['params'])
        height, width, inputs, outputs = layer['kernel'].shape
        shapes[f'{key}.weight'] = (outputs, inputs, height, width)
        shapes[f'{key}.bias'] = layer['bias'].shape
    arrays = draw_weights(shared_dir, shapes)
    rules = (*under(VGG16_RULES, path='backbone'), *BRANCH_RULES)
    wanted = {
        '/'.join(str(part.key) for part in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    account = make_account(arrays, rules, wanted)
    assert not (account.missing or account.unexpected or account.mismatched)
    # This reference takes the picture in the order of its weights.
    outputs = run_fast(
        model.apply, load_variables(account, arrays), draw_image(shared_dir, (97, 65))
    )
    check_close(np.asarray(outputs['semantic']), golden['logits'])


def test_a_reduced_picture_is_sampled_by_the_exact_scale():
    ramp = jnp.arange(7, dtype=jnp.float32)[None, :, None, None] * jnp.ones((1, 7, 9, 1))
    half = resize_by_factor(ramp, 0.5)
    assert half.shape == (1, 3, 4, 1)
    np.testing.assert_allclose(half[0, :, 0, 0], [0.5, 2.5, 4.5])
    three_quarters = resize_by_factor(ramp, 0.75)
    assert three_quarters.shape == (1, 5, 6, 1)
    wanted = (np.arange(5) + 0.5) / 0.75 - 0.5
    np.testing.assert_allclose(three_quarters[0, :, 0, 0], wanted, rtol=1e-6)


def test_the_loss_adds_up_all_scales_with_labels_of_their_size():
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 3, (2, 8, 8))
    labels[0, 0, 0] = 255
    targets = {
        'semantic': jnp.asarray(labels, jnp.int32),
        'semantic_weight': jnp.ones((2, 8, 8)),
    }
    outputs = {
        key: jnp.asarray(rng.randn(2, size, size, 3), jnp.float32)
        for key, size in (('semantic', 4), ('semantic_0', 4), ('semantic_1', 2))
    }
    options = LossOptions(top_k_fraction=1.0, semantic_size='logits')
    total, terms = panoptic_loss(outputs, targets, ignore_label=255, options=options)
    assert terms.keys() == outputs.keys()
    for key, logits in outputs.items():
        step = 8 // logits.shape[1]
        # Pillow's nearest pixel is the one right of the middle.
        small = labels[:, step // 2 :: step, step // 2 :: step]
        losses = -np.take_along_axis(
            np.asarray(jax.nn.log_softmax(logits)), small[..., None] % 255, 3
        )
        wanted = np.where(small[..., None] == 255, 0, losses).reshape(2, -1).mean(1).mean()
        assert terms[key] == pytest.approx(wanted, rel=1e-5)
    assert total == pytest.approx(sum(map(float, terms.values())), rel=1e-6)


def test_labels_are_resized_as_pillow_does():
    from PIL import Image

    labels = np.arange(11 * 13, dtype=np.uint8).reshape(11, 13)
    wanted = np.asarray(Image.fromarray(labels).resize((5, 4), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize_labels(jnp.asarray(labels)[None], (4, 5))[0], wanted)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'input_scales': (0.5, 1.0)}, r'input_scales \(=\(0.5, 1.0\)\) must begin with 1.0'),
        ({'input_scales': (1.0, 0.5), 'decoder': 'deeplab'}, "needs model.decoder='sum_aspp'"),
    ],
)
def test_wrong_scales_are_named(fields, message):
    fields = {'skip_strides': (), 'semantic_low_level_features': (), **fields}
    with pytest.raises(ValueError, match=message):
        make_options('caffe/deeplab_v1_vgg16_largefov_os8', **fields)
