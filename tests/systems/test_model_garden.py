"""Rules of Model Garden's Panoptic-DeepLab against the values of its own program."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coco_model_garden
from pdl_jax.data import catalog
from pdl_jax.experiment import Experiment
from pdl_jax.losses.panoptic_deeplab import LossOptions, image_losses, panoptic_loss
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.backbones.inverted_residual import GATES
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.postprocess.image_sizes import ImageSizes
from pdl_jax.postprocess.original_size import post_process_originals
from pdl_jax.postprocess.panoptic import PostprocessOptions, post_process
from pdl_jax.prediction.inference import Inference, abstract_variables
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    _make_window,
    random_window,
    sample_image,
    sample_labels,
    scale_size,
)
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.presets import PRESETS, make_options
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLabOptions
from pdl_jax.training.step import StepOptions, make_training_samples
from pdl_jax.typing import LabelFormat
from tests.convert.compiling import OPTIONS, run_fast
from tests.quick_compiler import EXACT

PRESET = PRESETS['model_garden/mobilenet_v3_small_os16']
TARGETS = TargetOptions(**PRESET.targets)
LOSS = LossOptions(**PRESET.loss)
# The things of the goldens.
FORMAT = LabelFormat(12, (1, 2, 3, 4, 5, 6), ignore_label=0, label_divisor=256)
# Maps are padded to one size with void, so that one program serves all.
CANVAS = (144, 160)
POSTPROCESS_CASES = (
    'scale1',
    'scale1_random',
    'enlarged',
    'shrunk',
    'not_rescaled',
    'full_resolution',
    'no_center',
    'constructed',
)
PARSER_CASES = (
    'eval_resized',
    'eval_original',
    'eval_odd',
    *(f'train_{i}' for i in range(4)),
)


def _mark_slow(cases, slow):
    """Marks the cases that repeat what quicker runs have seen."""
    return [pytest.param(case, marks=[pytest.mark.slow] * (case in slow)) for case in cases]


@pytest.fixture(scope='module')
def read_case(find_golden):
    def read(group, case):
        with np.load(find_golden('model_garden', group)) as arrays:
            found = {k: arrays[k] for k in arrays.files if k.startswith(f'{case}/')}
        assert found
        return {key.removeprefix(f'{case}/'): value for key, value in found.items()}

    return read


@functools.partial(jax.jit, compiler_options=OPTIONS)
def _make_padded(panoptic):
    return make_targets(panoptic, label_format=FORMAT, options=TARGETS)


def make(panoptic):
    height, width = panoptic.shape
    targets = _make_padded(_pad(panoptic, CANVAS))
    return {key: np.asarray(value)[:height, :width] for key, value in targets.items()}


@functools.partial(jax.jit, static_argnames='out_size', compiler_options=OPTIONS)
def _sample(image, labels, size, resized, offset, *, out_size):
    index = tuple(jnp.arange(n) + offset[i] for i, n in enumerate(out_size))
    window = _make_window(index, size, resized, 'model_garden')
    return (
        sample_image(image, size, window, normalization='imagenet'),
        sample_labels(labels, size, window, fill=0),
    )


def _pad(array, size):
    padding = [(0, n - m) for n, m in zip(size, array.shape, strict=False)]
    return np.pad(array, padding + [(0, 0)] * (array.ndim - 2))


def _join(category, instance):
    return category.astype(np.int32) * FORMAT.label_divisor + instance


def _check_targets(targets, golden, heatmap, offset, semantic_weight):
    np.testing.assert_allclose(targets['center'], golden[heatmap].squeeze(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(targets['offset'], golden[offset], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(targets['semantic_weight'], golden[semantic_weight])


@pytest.mark.parametrize('case', ['t0', 't1', 't2', 't3'])
def test_targets(case, read_case):
    golden = read_case('targets', case)
    targets = make(_join(golden['category'], golden['instance']))
    _check_targets(targets, golden, 'heatmap', 'offset', 'semantic_weight')
    np.testing.assert_array_equal(targets['semantic'], golden['category'])
    np.testing.assert_array_equal(targets['center_weight'], golden['category'] != 0)
    np.testing.assert_array_equal(targets['offset_weight'], golden['instance'] != 0)


def test_a_crowd_is_an_instance():
    panoptic = np.full((40, 40), 9 * 256, np.int32)
    panoptic[5:12, 8:17] = 3 * 256
    crowd, other = make(panoptic), make(panoptic + (panoptic == 768))
    jax.tree.map(np.testing.assert_array_equal, crowd, other)
    assert crowd['center'][8, 12] == 1 and crowd['offset_weight'].sum() == 63


@pytest.mark.parametrize('case', PARSER_CASES)
def test_images_and_masks_are_resized_and_cropped(case, read_case):
    golden = read_case('parser', case)
    height, width = golden['size'].tolist()
    size = golden['image_in'].shape[:2]
    scale, offset = golden['image_info'][2], golden['image_info'][3].astype(np.int32)
    resized = np.round(scale * size).astype(np.int32)
    if case.startswith('eval') and height == width:
        options = AugmentOptions((height, width), height, height, convention='model_garden')
        np.testing.assert_array_equal(scale_size(jnp.array(size), options), resized)
    image, labels = _sample(
        _pad(golden['image_in'], CANVAS),
        _pad(_join(golden['category_in'], golden['instance_in']), CANVAS),
        np.array(size),
        resized,
        offset,
        out_size=(height, width),
    )
    labels = np.asarray(labels)
    if case == 'eval_original':
        # Evaluation keeps the masks at their own size, and pads them.
        labels = _pad(_join(golden['category_in'], golden['instance_in']), (height, width))
    np.testing.assert_allclose(image, golden['image'], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(labels // 256, golden['category_mask'])
    np.testing.assert_array_equal(labels % 256, golden['instance_mask'])
    _check_targets(make(labels), golden, 'heatmap', 'offset', 'semantic_weights')


def test_training_crops_are_drawn_like_the_originals():
    """Smaller images lie at the top left; larger ones are cut at any whole offset."""
    options = AugmentOptions(
        (32, 32), 32, 32, min_scale=0.5, max_scale=2.0, convention='model_garden'
    )
    size = jnp.array([24, 48])
    keys = jax.random.split(jax.random.key(0), 300)
    draw = jax.jit(jax.vmap(lambda key: random_window(key, size, options)))
    windows = draw(keys)
    rows, columns = np.asarray(windows.rows), np.asarray(windows.columns)
    columns = np.where(columns[:, :1] > columns[:, 1:2], columns[:, ::-1], columns)
    is_row = rows >= 0
    # Heights are half of the side of the box, 16 to 64, so they never exceed the crop.
    heights = is_row.sum(1)
    assert is_row[:, 0].all() and 8 <= heights.min() < 11 and heights.max() == 32
    assert all(np.diff(row.astype(int)).max(initial=-1) <= 0 for row in is_row)
    starts = np.round((columns[:, 0] + 0.5) * (heights * 2) / 48 - 0.5)
    is_cut = heights > 16
    assert (starts[~is_cut] <= 0).all() and starts[is_cut].max() > 15
    assert (starts[is_cut] <= heights[is_cut] * 2 - 32).all()


@pytest.mark.parametrize('case', _mark_slow(('l0', 'l1', 'l2', 'l3'), {'l1', 'l2'}))
def test_losses_and_gradients(case, read_case):
    golden = read_case('losses', case)
    keys = ('semantic', 'center', 'offset')
    outputs = {key: jnp.asarray(golden[key]) for key in keys}
    targets = {
        'semantic': jnp.asarray(golden['category'], jnp.int32),
        'semantic_weight': jnp.asarray(golden['semantic_weight']),
        'center': jnp.asarray(golden['heatmap'][..., 0]),
        'center_weight': jnp.asarray(golden['category'] != 0, jnp.float32),
        'offset': jnp.asarray(golden['offset_target']),
        'offset_weight': jnp.asarray(golden['instance'] != 0, jnp.float32),
    }
    network = DeepLab(
        outputs['semantic'].shape[-1], make_options('model_garden/mobilenet_v3_small_os16')
    )
    size = golden['category'].shape[1:]

    def compute(outputs):
        upsampled = {**outputs, **network.upsample_instances(outputs, size)}
        total, terms = panoptic_loss(
            upsampled, targets, ignore_label=0, options=LOSS, resize='half_pixel'
        )
        images = image_losses(upsampled, targets, ignore_label=0, options=LOSS, resize='half_pixel')
        return total, (terms, images)

    differentiate = jax.value_and_grad(compute, has_aux=True)
    (total, (terms, images)), gradients = run_fast(differentiate, outputs)
    for key, weight in zip(keys, (1, 200, 0.01), strict=True):
        expected = golden[f'loss_{key}'] * weight
        np.testing.assert_allclose(terms[key], expected, rtol=1e-6, err_msg=key)
        # All images have as many pixels, so a batch is the mean of its images.
        np.testing.assert_allclose(images[key].mean(), expected, rtol=2e-6, err_msg=key)
        gradient = golden[f'grad_{key}']
        limit = 1e-6 * np.abs(gradient).max()
        np.testing.assert_allclose(gradients[key], gradient, rtol=1e-6, atol=limit, err_msg=key)
    np.testing.assert_allclose(total, golden['total'], rtol=1e-6)


def _label_originals(outputs, images, label_format, options, size):
    return post_process_originals(
        outputs, images, label_format=label_format, options=options, size=size
    )


def _label_inputs(outputs, label_format, options, size):
    network = DeepLab(
        label_format.num_classes, make_options('model_garden/mobilenet_v3_small_os16')
    )
    outputs = {**outputs, **network.upsample_instances(outputs, size)}
    return post_process(
        outputs, label_format=label_format, options=options, size=size, resize='half_pixel'
    )


@pytest.mark.parametrize(
    'case', _mark_slow(POSTPROCESS_CASES, {'scale1', 'full_resolution', 'no_center', 'constructed'})
)
def test_label_maps(case, read_case, find_golden):
    golden = read_case('postprocess', case)
    path = find_golden('model_garden', 'postprocess').with_suffix('.json')
    arguments = json.loads(path.read_text())[case]
    label_format = LabelFormat(
        golden['semantic'].shape[-1],
        tuple(arguments['thing_class_ids']),
        arguments['ignore_label'],
        arguments['label_divisor'],
    )
    options = PostprocessOptions(
        center_threshold=arguments['center_score_threshold'],
        nms_kernel_px=arguments['nms_kernel'],
        max_centers=arguments['keep_k_centers'],
        stuff_area_limit_px=arguments['stuff_area_limit'],
        is_at_original_size=True,
    )
    keys = ('semantic', 'center', 'offset')
    outputs = {key: jnp.asarray(golden[key]) for key in keys}
    canvas = tuple(arguments['output_size'])
    original, network_size, scale, _ = golden['image_info'][0]
    resized = np.round(original * scale).astype(np.int32)[None]

    def label(outputs, resized, original):
        if arguments['rescale_predictions']:
            images = ImageSizes(resized, original, canvas)
            size = tuple(network_size.astype(int).tolist())
            return _label_originals(outputs, images, label_format, options, size)
        return _label_inputs(outputs, label_format, options, canvas)

    maps = jax.jit(label, compiler_options=EXACT)(outputs, resized, original.astype(np.int32)[None])
    np.testing.assert_array_equal(maps['panoptic'], golden['panoptic_outputs'])
    peaks = np.argwhere(golden['instance_centers'][0] > options.center_threshold)
    np.testing.assert_array_equal(maps['centers'][maps['center_valid']], peaks)


def test_probabilities_are_those_of_the_resized_logits(read_case):
    """Both ways label the whole input where the image fills it at its own size."""
    golden = read_case('postprocess', 'scale1_random')
    options = PostprocessOptions(nms_kernel_px=7, stuff_area_limit_px=10)
    outputs = {key: jnp.asarray(golden[key]) for key in ('semantic', 'center', 'offset')}
    size = (64, 96)
    images = ImageSizes(jnp.array([size]), jnp.array([size]), size)

    @functools.partial(jax.jit, compiler_options=EXACT)
    def label(outputs):
        return (
            _label_originals(outputs, images, FORMAT, options, size),
            _label_inputs(outputs, FORMAT, options, size),
        )

    found, expected = label(outputs)
    for key in ('panoptic', 'semantic', 'instance'):
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    is_overruled = expected['panoptic'] // 256 != expected['semantic']
    assert (is_overruled & (expected['panoptic'] > 0)).any()
    for key in ('class_probability', 'center_score'):
        np.testing.assert_allclose(found[key], expected[key], rtol=2e-5, err_msg=key)


def test_panoptic_quality(find_golden):
    with np.load(find_golden('model_garden', 'pq')) as arrays:
        golden = dict(arrays)
    path = find_golden('model_garden', 'pq').with_suffix('.json')
    expected = json.loads(path.read_text())
    assert tuple(np.flatnonzero(expected['is_thing'])) == FORMAT.thing_classes
    label_format = dataclasses.replace(FORMAT, num_classes=13)
    metric = PanopticQuality.for_format(label_format, max_segments=64)
    labels, predictions = (
        golden[f'{name}_category'] * 256 + golden[f'{name}_instance'] for name in ('gt', 'pred')
    )
    count = jax.jit(metric.from_model_output, compiler_options=OPTIONS)

    def compute(labels):
        result = count(
            panoptic_label=labels, panoptic_prediction=predictions, valid=np.ones(6, bool)
        )
        return result.to_host().compute()

    found = compute(labels)
    for name in ('tp', 'fp', 'fn'):
        assert found['per_class'][name][1:12] == pytest.approx(expected['counts'][name][1:])
    for group in ('All', 'Things', 'Stuff'):
        assert found[group]['n'] == expected['result'][f'{group}_num_categories']
    # The original leaves void pixels out of a union only if their instance is 0. Here some have
    # 200, which data do not: as a class of their own they are counted as there.
    found = compute(np.where(labels == 200, 12 * 256, labels))
    for name in ('pq', 'sq', 'rq'):
        values = np.array(expected['result'][f'{name}_per_class'][1:])
        assert found['per_class'][name][1:12] == pytest.approx(values, abs=1e-9)
        assert values[:6].mean() == pytest.approx(expected['result'][f'Things_{name}'])


def test_network_parts_that_no_other_family_has():
    options = make_options('model_garden/resnet50_os16')
    backbone = make_model_backbone(options)
    rates = [1 - backbone._find_keep_prob(stage, 4 * 2**stage) for stage in range(4)]
    np.testing.assert_allclose(rates, [0.08, 0.12, 0.16, 0.2])
    mobile = make_model_backbone(make_options('model_garden/mobilenet_v3_small_os16'))
    features = jax.eval_shape(
        lambda x: mobile.init_with_output(jax.random.key(0), x, train=False)[0],
        jnp.zeros((1, 64, 96, 3)),
    )
    assert {k: v.shape[1:] for k, v in features.items()} == {
        'stride4': (16, 24, 16),
        'stride8': (8, 12, 24),
        'stride16': (4, 6, 48),
        'last': (4, 6, 96),
    }
    x = jnp.arange(-4.0, 5.0)
    gate = GATES['rounded_hard_sigmoid'](x)
    np.testing.assert_allclose(gate, np.clip(x + 3, 0, 6) * 0.16667, rtol=1e-6)
    with pytest.raises(ValueError, match='are of bottlenecks'):
        make_backbone('resnet18', squeeze_excite_gate='sigmoid')


def test_offsets_of_a_resized_input_are_in_pixels_of_the_image():
    """At half the size the network predicts half of the offset; labels see the maps as they are."""
    preset = PRESETS['model_garden/mobilenet_v3_small_os16']
    sections = dict.fromkeys(('model', 'targets', 'loss', 'postprocess'), {})
    options = PanopticDeepLabOptions.from_sections(preset, sections, (64, 64))
    system = options.make_system(FORMAT)
    outputs = {
        'semantic': jnp.zeros((1, 4, 4, 12)),
        'center': jnp.zeros((1, 4, 4, 1)),
        'offset': jnp.full((1, 4, 4, 2), 3.0),
    }
    for is_partial, size in ((False, (16, 16)), (True, (4, 4))):
        for scale, expected in ((1.0, 3.0), (0.5, 6.0)):
            found = system.at_scale(scale).upsample(outputs, (16, 16), is_partial=is_partial)
            np.testing.assert_allclose(found['offset'], np.full((1, *size, 2), expected))


def test_an_image_is_labelled_and_trained_at_its_own_size():
    """Traced only: the parts fit together, and labels have the size of the canvas."""
    config = coco_model_garden.get_config()
    config.model.preset = 'model_garden/mobilenet_v3_small_os16'
    experiment = Experiment.from_config(config)
    system = experiment.make_system(catalog.coco_ids().label_format)
    inference = Inference.for_images(
        system, experiment.augment, experiment.evaluate, max_size=(480, 600)
    )
    assert inference.input_size == (640, 640)
    image = jax.ShapeDtypeStruct((2, 512, 640, 3), np.uint8)
    size = jax.ShapeDtypeStruct((2, 2), np.int32)
    variables = abstract_variables(system)
    outputs = eval_shape(inference.outputs, variables, image, size)
    assert outputs['center'].shape == (2, 160, 160, 1)

    def label(outputs, size):
        return inference.label_outputs(outputs, size, canvas=(512, 640))

    maps = eval_shape(label, outputs, size)
    assert {x.shape for x in maps} == {(2, 512, 640)}

    def train(variables, image, size, panoptic, outputs):
        batch = {'image': image, 'size': size, 'panoptic': panoptic}
        samples = make_training_samples(
            batch,
            jnp.int32(0),
            label_format=system.label_format,
            options=StepOptions(experiment.augment),
        )
        loss, (terms, _) = system.loss(variables, samples, rng=jax.random.key(0))
        labels = inference.prepare_labels(panoptic, size)
        return loss, terms, system.image_losses(outputs, labels)

    panoptic = jax.ShapeDtypeStruct((2, 512, 640), np.int32)
    loss, terms, images = eval_shape(train, variables, image, size, panoptic, outputs)
    assert loss.shape == () and set(terms) == set(images) == {'semantic', 'center', 'offset'}
    assert {x.shape for x in images.values()} == {(2,)}
