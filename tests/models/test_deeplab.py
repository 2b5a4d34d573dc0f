"""The network: parameter counts of the original, any input size, atrous consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.aspp import ASPP, average_pool
from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.lr_aspp import LRASPP
from pdl_jax.models.options import ModelOptions
from pdl_jax.presets import make_options


def _shapes(module, size=(65, 65), **arguments):
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), **arguments)
    )


@pytest.mark.slow
@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('size', [(65, 97), (64, 50), (33, 41)])
def test_output_shapes_at_any_size(output_stride, size):
    options = make_options(
        'deeplab2/resnet50_os32', backbone='resnet18', output_stride=output_stride
    )
    model = DeepLab(5, options, pool_crop=(65, 65))

    def run(image):
        outputs, _ = model.init_with_output(jax.random.key(0), image)
        return outputs, model.upsample(outputs, image.shape[1:3])

    outputs, large = jax.eval_shape(run, jnp.zeros((2, *size, 3)))
    for key, channels in (('semantic', 5), ('center', 1), ('offset', 2)):
        assert outputs[key].shape == (2, *(-(-n // 4) for n in size), channels)
        assert large[key].shape == (2, *size, channels)


def test_missing_skip_is_named():
    model = DeepLab(5, make_options('bowenc0221/resnet50_os32', output_stride=8))
    with pytest.raises(ValueError, match="skip_strides .*asks for 'stride16'.*output stride 8"):
        _shapes(model)


@pytest.mark.parametrize(
    ('resize', 'size'), [('corner_aligned', (17, 33)), ('half_pixel', (20, 36))]
)
def test_offsets_are_scaled_to_image_pixels(resize, size):
    """All pixels of the small map point at its pixel (2, 3), and of the large one at that place."""
    model = DeepLab(3, ModelOptions(resize=resize))
    rows, columns = jnp.meshgrid(jnp.arange(5.0), jnp.arange(9.0), indexing='ij')
    offset = jnp.stack([2 - rows, 3 - columns], axis=-1)[None]
    large = model.upsample({'offset': offset}, size)['offset'][0]
    rows, columns = jnp.meshgrid(jnp.arange(size[0]), jnp.arange(size[1]), indexing='ij')
    target = large + jnp.stack([rows, columns], -1)
    if resize == 'corner_aligned':
        np.testing.assert_allclose(target, np.broadcast_to([8, 12], (17, 33, 2)), atol=1e-4)
    else:
        # Pixel centres: (2 + 1/2) * 4 - 1/2; beyond the outermost centres the resize repeats the
        # border.
        inside = target[2:-2, 2:-2]
        np.testing.assert_allclose(inside, np.broadcast_to([9.5, 13.5], inside.shape), atol=1e-4)


def test_pool_window_slides_over_a_larger_map_and_is_clipped_to_a_smaller():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    pooled = average_pool(x, (2, 3))
    assert pooled.shape == (1, 3, 4, 1)
    np.testing.assert_allclose(pooled[0, 1, 2, 0], x[0, 1:3, 2:5].mean())
    np.testing.assert_allclose(average_pool(x, (9, 9)), x.mean((1, 2), keepdims=True))
    pooled = average_pool(x, (2, 2), (2, 3))
    assert pooled.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(pooled[0, 1, 1, 0], x[0, 2:4, 3:5].mean())


def test_bfloat16_network_answers_in_float32_and_keeps_float32_parameters():
    model = DeepLab(
        3, make_options('deeplab2/resnet50_os32', backbone='mobilenet_v2'), dtype=jnp.bfloat16
    )
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, 33, 33, 3))
    )
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert {x.dtype for x in outputs.values()} == {jnp.dtype('float32')}


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(ValueError, match="'resnet51' is unknown.*resnet50_beta"):
        make_backbone('resnet51')


def _make_context(kind):
    """A module that averages the whole map, and its input."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 5))
    if kind == 'aspp':
        return ASPP(4, (), dropout_rate=0.0), x
    return LRASPP(4, 3), {'last': x, 'stride8': jnp.ones((2, 11, 15, 5))}


@pytest.mark.parametrize('kind', ['aspp', 'lr_aspp'])
def test_a_part_takes_the_average_of_the_whole_from_the_variables(kind):
    module, x = _make_context(kind)
    variables = module.init(jax.random.key(1), x, train=False)
    assert 'context' not in variables
    plain = module.apply(variables, x, train=False)
    _, stored = module.apply(variables, x, train=False, mutable=['context'])
    (features,) = jax.tree.leaves(stored)
    np.testing.assert_array_equal(features, x if kind == 'aspp' else x['last'])
    # One average for the batch.
    mean = jax.tree.map(lambda f: f[:1].mean(axis=(1, 2), keepdims=True), stored)
    taken = module.apply({**variables, **mean}, x, train=False)
    np.testing.assert_allclose(taken[0], plain[0], atol=1e-6)
    assert np.abs(taken[1] - plain[1]).max() > 1e-4


def test_windows_are_averaged_as_ever():
    module, x = _make_context('aspp')
    module = module.clone(pool_window=(3, 3))
    variables = module.init(jax.random.key(1), x, train=False)
    _, stored = module.apply(variables, x, train=False, mutable=['context'])
    assert not jax.tree.leaves(stored)
