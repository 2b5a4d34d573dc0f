"""Averaging over scales and the mirror image, with networks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.experiment import EvaluateOptions
from pdl_jax.models.options import make_model_options
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.postprocess.panoptic import PostprocessOptions
from pdl_jax.prediction.inference import (
    Inference,
    Pass,
    abstract_variables,
    make_passes,
    run_passes,
)
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.presets import make_options
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab, PanopticDeepLabOptions
from pdl_jax.systems.semantic_deeplab import SemanticDeepLab, SemanticDeepLabOptions
from pdl_jax.systems.system import LabelMaps
from pdl_jax.typing import LabelFormat
from tests.convert.compiling import run_fast

STRIDE = 4
PARTS = ('features', 'aspp_features', 'head_features')


LABEL_FORMAT = LabelFormat(3, thing_classes=(1,), ignore_label=255, label_divisor=256)


class _Known(PanopticDeepLab):
    """Answers from the position and the content of its input, as an ideal network of stride 4."""

    def outputs(self, variables, image):
        """Points to one place, a share of the image's extent; heat and logits are grey levels."""
        height, width = image.shape[1:3]
        size = tuple(-(-n // STRIDE) for n in (height, width))
        is_corner = self.grid.is_corner_aligned
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
    """Makes images whose grey level grows from left to right: it tells position and mirroring."""
    return jnp.broadcast_to(jnp.linspace(-1, 1, size[1])[None, None, :, None], (2, *size, 3))


def _make_passes(size, scales, is_flipped, resize):
    model = make_model_options({'resize': resize, 'output_stride': 16})
    system = _Known(LABEL_FORMAT, PanopticDeepLabOptions((1025, 2049), model=model))
    return make_passes(system, size, EvaluateOptions(scales=scales, is_flipped=is_flipped))


@pytest.mark.slow
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

    class Fixed(SemanticDeepLab):
        def outputs(self, variables, image):
            return {'semantic': answers[int(self.scale)]}

        def upsample(self, outputs, size, *, is_partial=False):
            return outputs

    system = Fixed(LABEL_FORMAT, SemanticDeepLabOptions(size))
    passes = [Pass(system.at_scale(i), size) for i in range(2)]
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
    large = run_passes(passes, {'target': (0.25, 0.7)}, images, is_partial=False)
    small = run_passes(passes, {'target': (0.25, 0.7)}, images)
    assert small['semantic'].shape == (2, 9, 17, 3)
    np.testing.assert_allclose(
        resize_bilinear(small['semantic'], size), large['semantic'], atol=1e-6
    )
    for key in ('center', 'offset'):
        np.testing.assert_array_equal(small[key], large[key])


def test_sizes_and_windows_of_the_passes():
    evaluate = EvaluateOptions(scales=(0.5, 1.0, 1.75))
    system = PanopticDeepLab(LABEL_FORMAT, PanopticDeepLabOptions((513, 513)))
    passes = make_passes(system, (513, 1025), evaluate)
    assert [p.size for p in passes] == [(257, 513), (513, 1025), (897, 1793)]
    windows = [p.system.network.pool_crop for p in passes]
    assert windows == [(257, 257), (513, 513), (897, 897)]
    model = make_model_options({'resize': 'half_pixel'})
    system = PanopticDeepLab(LABEL_FORMAT, PanopticDeepLabOptions((513, 513), model=model))
    assert [p.size for p in make_passes(system, (512, 1024), evaluate)] == [
        (256, 512),
        (512, 1024),
        (896, 1792),
    ]


def test_systems_without_an_average_say_so():
    class Alone(PanopticDeepLab):
        averaging = None

    system = Alone(LABEL_FORMAT, PanopticDeepLabOptions((33, 33)))
    assert len(make_passes(system, (33, 33), EvaluateOptions())) == 1
    for evaluate in (EvaluateOptions(is_flipped=True), EvaluateOptions(scales=(1.0, 2.0))):
        with pytest.raises(ValueError, match='Alone cannot average.*config.evaluate.scales'):
            make_passes(system, (33, 33), evaluate)


def _make_system(resize):
    width = {f'{branch}_{part}': 8 for branch in ('semantic', 'instance') for part in PARTS}
    skips = {f'{branch}_low_level_features': (8, 8) for branch in ('semantic', 'instance')}
    options = make_options(
        'deeplab2/resnet50_os16',
        backbone='resnet18',
        width_multiplier=0.25,
        resize=resize,
        aspp_rates=(1, 2),
        **width,
        **skips,
    )
    return PanopticDeepLab(LABEL_FORMAT, PanopticDeepLabOptions((33, 33), model=options))


def _draw_variables(system):
    """Draws variables with which every layer keeps the scale of its input.

    The outputs of initial variables are almost nothing.
    """
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == 'kernel':
            return rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ('scale', 'var'), np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(system))


# A size that fits no stride, and one that does.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('resize', 'size'), [('corner_aligned', (30, 44)), ('half_pixel', (32, 48))]
)
def test_mirror_image_has_the_mirrored_average(resize, size):
    system = _make_system(resize)
    variables = _draw_variables(system)
    images = jax.random.normal(jax.random.key(1), (1, *size, 3))
    passes = [Pass(system, tuple(n + 8 for n in size), True)]
    both = jnp.concatenate([images, images[:, :, ::-1]])
    found = run_fast(lambda images: run_passes(passes, variables, images), both)
    outputs, mirrored = ({key: x[i : i + 1] for key, x in found.items()} for i in range(2))
    mirrored['offset'] *= jnp.array([1.0, -1.0])
    for key, value in outputs.items():
        reach = np.abs(value).max()
        np.testing.assert_allclose(mirrored[key][:, :, ::-1], value, atol=1e-4 * reach, err_msg=key)
        assert np.abs(value[:, :, ::-1] - value).max() > 0.1 * reach


def test_memory_is_that_of_one_pass():
    label_format = LabelFormat(19, thing_classes=(), ignore_label=255, label_divisor=256)

    class Shallow(SemanticDeepLab):
        def outputs(self, variables, image):
            return {'semantic': jnp.tanh(image[:, ::STRIDE, ::STRIDE, :1] * jnp.arange(19.0))}

    def measure(passes):
        run = jax.jit(lambda images: run_passes(passes, {}, images))
        images = jax.ShapeDtypeStruct((1, 257, 513, 3), jnp.float32)
        return run.lower(images).compile().memory_analysis()

    system = Shallow(label_format, SemanticDeepLabOptions((257, 513)))
    several = measure([Pass(system, (257 - 8 * i, 513), True) for i in range(5)])
    # Logits, probabilities, the sum and what they are made of; the maps of ten passes would be
    # twice that.
    assert several.temp_size_in_bytes < 5 * several.output_size_in_bytes


@pytest.mark.parametrize('is_cut', [True, False])
def test_padding_takes_part_unless_the_options_cut_it(is_cut):
    rng = np.random.default_rng(0)
    outputs = {
        'semantic': rng.normal(0, 1, (1, 24, 32, 3)).astype(np.float32),
        'center': rng.random((1, 24, 32, 1), np.float32),
        'offset': rng.normal(0, 3, (1, 24, 32, 2)).astype(np.float32),
    }
    rules = PostprocessOptions(nms_kernel_px=3, stuff_area_limit_px=0, is_padding_cut=is_cut)
    system = PanopticDeepLab(LABEL_FORMAT, PanopticDeepLabOptions((24, 32), postprocess=rules))
    size = np.array([[15, 20]])
    maps = run_fast(lambda x: system.label_padded_maps(x, size=(24, 32), image_size=size), outputs)
    cut = {name: array[:, :15, :20] for name, array in outputs.items()}
    expected = run_fast(lambda x: system.label_maps(x, size=(15, 20)), cut)
    is_equal = (np.asarray(maps.panoptic)[:, :15, :20] == expected.panoptic).all()
    assert is_equal == is_cut


def test_a_system_may_label_at_the_size_of_the_originals():
    class _AtOriginalSize(SemanticDeepLab):
        def label_original_maps(self, outputs, *, size, image_size, original_size, canvas):
            height = jnp.broadcast_to(original_size[:, :1, None], (2, *canvas))
            width = jnp.broadcast_to(image_size[:, 1:, None], (2, *canvas))
            return LabelMaps(height, width, outputs['share'], outputs['share'])

    options = AugmentOptions(crop_size=(65, 65), resize_min_px=65, resize_max_px=65)
    system = _AtOriginalSize(LABEL_FORMAT, SemanticDeepLabOptions((65, 65)))
    inference = Inference(system, options, EvaluateOptions(), (65, 65))
    outputs = {'share': jnp.ones((2, 30, 40))}
    maps = inference.label_outputs(outputs, jnp.array([[30, 20], [15, 40]]), canvas=(30, 40))
    np.testing.assert_array_equal(maps.panoptic[:, 0, 0], [30, 15])
    np.testing.assert_array_equal(maps.semantic[:, 0, 0], [43, 65])
