"""Averaging over scales and the mirror image, with networks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from pdl_jax.config import make_passes
from pdl_jax.models.deeplab import PanopticDeepLab
from pdl_jax.models.options import ModelOptions
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.prediction.inference import Pass, abstract_variables, run_passes
from pdl_jax.presets import make_options

STRIDE = 4
PARTS = ('features', 'aspp_features', 'head_features')


class _Known(PanopticDeepLab):
    """Answers from the position and the content of its input, as a network of stride 4 would that knew them."""

    def apply(self, variables, image, train):
        """Offsets to one place of the image, given as a share of its extent; heat and logits from the grey level."""
        height, width = image.shape[1:3]
        size = tuple(-(-n // STRIDE) for n in (height, width))
        is_corner = self.model.resize == 'corner_aligned'
        # A mirrored input shows its place at the other end.
        is_mirrored = image[0, 0, 0, 0] > image[0, 0, -1, 0]
        target = jnp.array(variables['target'])
        target = jnp.where(is_mirrored, target.at[1].set(1 - target[1]), target)
        rows, columns = jnp.meshgrid(
            *(jnp.arange(n, dtype=jnp.float32) for n in size), indexing='ij'
        )
        if is_corner:
            y, x = target[0] * (size[0] - 1), target[1] * (size[1] - 1)
        else:
            y, x = target[0] * size[0] - 0.5, target[1] * size[1] - 0.5
        offset = jnp.stack([y - rows, x - columns], -1)[None]
        grey = image[:, ::STRIDE, ::STRIDE, :1] if is_corner else image[:, 2::STRIDE, 2::STRIDE, :1]
        grey = grey[:, : size[0], : size[1]]
        return {
            'semantic': jnp.concatenate([grey, -grey, 0 * grey], -1),
            'center': grey,
            'offset': jnp.broadcast_to(offset, (image.shape[0], *size, 2)),
        }


def _ramp(size):
    """An image whose grey level grows from left to right: it shows where each pixel was, and whether it is mirrored."""
    return jnp.broadcast_to(jnp.linspace(-1, 1, size[1])[None, None, :, None], (2, *size, 3))


def _make_passes(size, scales, is_flipped, resize):
    config = common.get_config()
    config.model.resize = resize
    config.model.output_stride = 16
    config.evaluate.scales = scales
    config.evaluate.is_flipped = is_flipped
    passes = make_passes(config, 3, size)
    return [Pass(_Known(3, p.model.model, p.model.pool_crop), p.size, p.is_flipped) for p in passes]


@pytest.mark.parametrize(
    ('scales', 'is_flipped'), [((0.5,), False), ((1.0,), True), ((0.5, 1.0, 1.75), True)]
)
@pytest.mark.parametrize('size', [(65, 97), (33, 129), (50, 64)])
def test_every_pixel_still_points_at_its_centre(size, scales, is_flipped):
    passes = _make_passes(size, scales, is_flipped, 'corner_aligned')
    target = (0.25, 0.7)
    outputs = run_passes(passes, {'target': target}, _ramp(size))
    rows, columns = np.mgrid[: size[0], : size[1]]
    votes = np.asarray(outputs['offset']) + np.stack([rows, columns], -1)
    expected = [target[0] * (size[0] - 1), target[1] * (size[1] - 1)]
    np.testing.assert_allclose(votes, np.broadcast_to(expected, votes.shape), atol=1e-4)


@pytest.mark.parametrize('scales', [(1.0,), (0.5, 1.0, 1.5)])
def test_half_pixel_networks_point_at_their_centre_too(scales):
    size, target = (64, 96), (0.25, 0.7)
    passes = _make_passes(size, scales, True, 'half_pixel')
    outputs = run_passes(passes, {'target': target}, _ramp(size))
    rows, columns = np.mgrid[: size[0], : size[1]]
    votes = np.asarray(outputs['offset']) + np.stack([rows, columns], -1)
    expected = [target[0] * size[0] - 0.5, target[1] * size[1] - 0.5]
    # Beyond the outermost pixel centres of the small map its border is repeated.
    inside = votes[:, 8:-8, 8:-8]
    np.testing.assert_allclose(inside, np.broadcast_to(expected, inside.shape), atol=1e-4)


def test_heat_is_mirrored_back():
    size = (65, 97)
    heat = run_passes(
        _make_passes(size, (1.0, 1.5), True, 'corner_aligned'), {'target': (0.5, 0.5)}, _ramp(size)
    )['center']
    # The level of every pixel itself, up to where a map of stride 4 samples it.
    np.testing.assert_allclose(heat[..., 0], _ramp(size)[..., 0], atol=0.02)


def test_probabilities_are_averaged_not_logits():
    size = (17, 33)
    answers = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, *size, 4)) * 3, jnp.float32)

    class Fixed:
        model = ModelOptions()

        def __init__(self, index):
            self.index = index

        def apply(self, variables, image, train):
            return {'semantic': answers[self.index]}

        def upsample(self, outputs, size):
            return outputs

    passes = [Pass(Fixed(i), size) for i in range(2)]
    outputs = run_passes(passes, {}, jnp.zeros((1, *size, 3)))
    expected = np.asarray(jax.nn.softmax(answers, -1)).mean(0)
    assert set(outputs) == {'semantic'}
    np.testing.assert_allclose(np.exp(outputs['semantic']), expected, rtol=1e-4)
    # One pass stays as it is.
    single = run_passes(passes[:1], {}, jnp.zeros((1, *size, 3)))
    np.testing.assert_array_equal(single['semantic'], answers[0])


def test_logits_of_a_single_pass_may_stay_small():
    size = (33, 65)
    passes = _make_passes(size, (1.0,), False, 'corner_aligned')
    images = _ramp(size)
    large = run_passes(passes, {'target': (0.25, 0.7)}, images)
    small = run_passes(passes, {'target': (0.25, 0.7)}, images, is_semantic_enlarged=False)
    assert small['semantic'].shape == (2, 9, 17, 3)
    np.testing.assert_allclose(
        resize_bilinear(small['semantic'], size), large['semantic'], atol=1e-6
    )
    for key in ('center', 'offset'):
        np.testing.assert_array_equal(small[key], large[key])


def test_sizes_and_windows_of_the_passes():
    config = common.get_config()
    config.augment.crop_height_px = config.augment.crop_width_px = 513
    config.evaluate.scales = (0.5, 1.0, 1.75)
    passes = make_passes(config, 3, (513, 1025))
    assert [p.size for p in passes] == [(257, 513), (513, 1025), (897, 1793)]
    assert [p.model.pool_crop for p in passes] == [(257, 257), (513, 513), (897, 897)]
    config.model.resize = 'half_pixel'
    assert [p.size for p in make_passes(config, 3, (512, 1024))] == [
        (256, 512),
        (512, 1024),
        (896, 1792),
    ]


def _make_network(resize):
    width = {f'{branch}_{part}': 8 for branch in ('semantic', 'instance') for part in PARTS}
    skips = {f'{branch}_low_level_features': (8, 8) for branch in ('semantic', 'instance')}
    options = make_options(
        'deeplab2/resnet50_os16',
        backbone='mobilenet_v2',
        width_multiplier=0.25,
        resize=resize,
        aspp_rates=(1, 2),
        **width,
        **skips,
    )
    return PanopticDeepLab(3, options, pool_crop=(33, 33))


def _draw_variables(network):
    """Variables with which every layer keeps the size of its input: those at the start answer almost nothing."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == 'kernel':
            return rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ('scale', 'var'), np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(network))


# A size that fits no stride, and one that does.
@pytest.mark.parametrize(
    ('resize', 'size'), [('corner_aligned', (30, 44)), ('half_pixel', (32, 48))]
)
def test_mirror_image_has_the_mirrored_average(resize, size):
    network = _make_network(resize)
    variables = _draw_variables(network)
    images = jax.random.normal(jax.random.key(1), (1, *size, 3))
    passes = [Pass(network, tuple(n + 8 for n in size), True)]
    run = jax.jit(lambda images: run_passes(passes, variables, images))
    outputs, mirrored = run(images), run(images[:, :, ::-1])
    mirrored['offset'] *= jnp.array([1.0, -1.0])
    for key, value in outputs.items():
        reach = np.abs(value).max()
        np.testing.assert_allclose(mirrored[key][:, :, ::-1], value, atol=1e-4 * reach, err_msg=key)
        assert np.abs(value[:, :, ::-1] - value).max() > 0.1 * reach


def test_memory_is_that_of_one_pass():
    class Shallow(PanopticDeepLab):
        def apply(self, variables, image, train):
            return {'semantic': jnp.tanh(image[:, ::STRIDE, ::STRIDE, :1] * jnp.arange(19.0))}

    def measure(passes):
        run = jax.jit(lambda images: run_passes(passes, {}, images))
        return (
            run.lower(jax.ShapeDtypeStruct((1, 257, 513, 3), jnp.float32))
            .compile()
            .memory_analysis()
        )

    several = measure([Pass(Shallow(19), (257 - 8 * i, 513), True) for i in range(5)])
    # Logits, probabilities, the sum and what they are made of; the maps of ten passes would be twice that.
    assert several.temp_size_in_bytes < 5 * several.output_size_in_bytes
