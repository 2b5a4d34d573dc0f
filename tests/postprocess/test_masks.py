"""Masks of queries become panoptic maps: reference programs, a plain restatement, other forms."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.ops.platforms import pin_platform
from pdl_jax.postprocess.mask_options import MaskPostprocessOptions
from pdl_jax.postprocess.masks import ImageSizes, label_masks
from pdl_jax.typing import LabelFormat
from tests.convert.compiling import OPTIONS

CASES = {
    (65, 97): ('plain_0', 'many_2', 'two_stuff_4', 'tiny_6'),
    (81, 81): ('plain_1', 'duplicates_3', 'threshold_5', 'nothing_7'),
}
SETTINGS = ('coco', 'cityscapes', 'ade20k')
FIELDS = {
    'thing_threshold': 'thing',
    'stuff_threshold': 'stuff',
    'overlap_threshold': 'overlap',
    'class_exponent': 'a',
    'mask_exponent': 'b',
}
LABEL_FORMAT = LabelFormat(9, thing_classes=(0, 1, 2, 3, 4), ignore_label=255, label_divisor=1000)
VOID = LABEL_FORMAT.void_label
# A canvas that holds the three original sizes of every case.
CANVAS = (150, 120)
ORIGINALS = ('same', 'wide', 'tall')


@functools.partial(
    jax.jit,
    static_argnames=('rules', 'size', 'canvas', 'platform', 'label_format'),
    compiler_options=OPTIONS,
)
def run(arrays, values, *, size, rules=(), canvas=None, platform='cpu', label_format=LABEL_FORMAT):
    """Labels batches of images, one after the other, each with its own traced options."""

    def label(inputs):
        (masks, classes, *sizes), fields = inputs
        return label_masks(
            masks,
            classes,
            label_format=label_format,
            options=MaskPostprocessOptions(**dict(rules), **fields),
            size=size,
            images=ImageSizes(*sizes, canvas) if canvas else None,
        )

    with pin_platform(platform):
        return jax.lax.map(label, (arrays, values))


def read_cases(find_golden, size):
    cases = []
    for name in CASES[size]:
        with np.load(find_golden('kmax/post', name)) as arrays:
            cases.append(dict(arrays))
    return cases


def make_options(case):
    settings = json.loads(str(case['settings']))
    return [{f: np.float32(settings[s][key]) for f, key in FIELDS.items()} for s in SETTINGS]


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def crop_sizes(size, originals):
    """The part of the input that an image covers, as the PyTorch program computes it."""
    scales = [max(size) / max(original) for original in originals]
    return [
        [min(round(n * scale), limit) for n, limit in zip(original, size, strict=True)]
        for original, scale in zip(originals, scales, strict=True)
    ]


def expected_labels(ids, classes):
    """Panoptic labels of the PyTorch program's segments, things numbered within their class."""
    labels, count = [VOID], dict.fromkeys(range(5), 0)
    for value in classes.astype(int):
        count[value] = count.get(value, -1) + 1
        labels.append(value * 1000 + (count[value] if value < 5 else 0))
    return np.array(labels)[ids]


def same_up_to_ids(found, expected):
    """Whether two maps differ in the instance ids only, but for at most one pixel."""
    is_other = found // 1000 != expected // 1000
    pairs = np.unique(np.stack([found[~is_other], expected[~is_other]]), axis=1)
    return is_other.sum() <= 1 and pairs.shape[1] <= len(np.unique(expected)) + 1


@pytest.mark.parametrize('size', CASES)
def test_equals_the_pytorch_program(size, find_golden):
    cases = read_cases(find_golden, size)
    inputs, options = [], []
    for case in cases:
        originals = [tuple(int(n) for n in case[f'original_{name}']) for name in ORIGINALS]
        masks = np.moveaxis(case['mask_logits'], 0, -1)
        arrays = (
            np.broadcast_to(masks, (3, *masks.shape)),
            np.broadcast_to(case['class_logits'], (3, *case['class_logits'].shape)),
            np.array(crop_sizes(size, originals)),
            np.array(originals),
        )
        for fields in make_options(case):
            inputs.append(arrays)
            options.append(fields)
    maps = jax.device_get(run(stack(inputs), stack(options), size=size, canvas=CANVAS))
    for row, (case, setting) in enumerate((c, s) for c in cases for s in SETTINGS):
        for image, name in enumerate(ORIGINALS):
            height, width = case[f'original_{name}']
            found = {key: values[row, image] for key, values in maps.items()}
            inside = {key: values[:height, :width] for key, values in found.items()}
            classes = case[f'torch_{setting}_{name}_classes']
            expected = expected_labels(case[f'torch_{setting}_{name}_ids'], classes)
            if case is cases[-1] and size == (65, 97):
                assert same_up_to_ids(inside['panoptic'], expected), (setting, name)
            else:
                np.testing.assert_array_equal(inside['panoptic'], expected)
            np.testing.assert_array_equal(inside['semantic'], case[f'torch_{name}_semantic'])
            for key, fill in (('panoptic', VOID), ('semantic', 255), ('score', 0)):
                assert (found[key][height:] == fill).all() and (found[key][:, width:] == fill).all()


@pytest.mark.parametrize('size', CASES)
def test_equals_deeplab2(size, find_golden):
    cases = read_cases(find_golden, size)
    inputs, options = [], []
    for case in cases:
        arrays = np.moveaxis(case['mask_logits'], 0, -1)[None], case['class_logits'][None]
        for limits in ((0, 0), (60, 300)):
            for fields in make_options(case):
                inputs.append(arrays)
                areas = dict(
                    zip(('thing_area_limit_px', 'stuff_area_limit_px'), limits, strict=True)
                )
                options.append(fields | {key: np.int32(n) for key, n in areas.items()})
    rules = (('convention', 'deeplab2'),)
    maps = jax.device_get(run(stack(inputs), stack(options), size=size, rules=rules))
    names = [(c, a, s) for c in cases for a in ('no_areas', 'areas') for s in SETTINGS]
    for row, (case, areas, setting) in enumerate(names):
        found = {key: values[row, 0] for key, values in maps.items()}
        expected = case[f'deeplab2_{setting}_{areas}']
        if case is cases[-1] and size == (65, 97):
            assert same_up_to_ids(found['panoptic'], expected), (setting, areas)
        else:
            np.testing.assert_array_equal(found['panoptic'], expected)
        score = case[f'deeplab2_{setting}_instance_score']
        np.testing.assert_allclose(found['score'], score, atol=1e-6)
        is_segment = (found['panoptic'] != VOID) & (expected != VOID)
        score = case[f'deeplab2_{setting}_semantic_score']
        np.testing.assert_allclose(
            found['class_probability'][is_segment], score[is_segment], atol=1e-6
        )


@pytest.mark.parametrize('size', CASES)
def test_pixel_wise_rule_equals_deeplab2(size, find_golden):
    cases = read_cases(find_golden, size)
    inputs, options = [], []
    for case in cases:
        for limits in ((0, 0), (60, 300)):
            inputs.append(
                (np.moveaxis(case['mask_logits'], 0, -1)[None], case['class_logits'][None])
            )
            areas = dict(zip(('thing_area_limit_px', 'stuff_area_limit_px'), limits, strict=True))
            options.append({key: np.int32(n) for key, n in areas.items()})
    rules = (
        ('convention', 'deeplab2'),
        ('merge_rule', 'pixel_wise'),
        ('thing_threshold', 0.7),
        ('stuff_threshold', 0.7),
    )
    maps = jax.device_get(run(stack(inputs), stack(options), size=size, rules=rules))
    for row, (case, areas) in enumerate((c, a) for c in cases for a in ('no_areas', 'areas')):
        expected = case[f'deeplab2_pixelwise_{areas}']
        np.testing.assert_array_equal(maps['panoptic'][row, 0], expected)


def random_inputs(batch=2, num_queries=12, num_classes=5, size=(7, 9)):
    rng = np.random.default_rng(0)
    masks = rng.normal(size=(batch, *size, num_queries)).astype(np.float32) * 4
    classes = rng.normal(size=(batch, num_queries, num_classes + 1)).astype(np.float32) * 3
    return masks, classes


@pytest.mark.parametrize('platform', ['tpu', 'portable'])
def test_implementations_agree(platform):
    masks, classes = random_inputs()
    arrays = masks, classes, np.array([[25, 20], [13, 33]]), np.array([[40, 31], [11, 30]])
    fields = {'thing_threshold': np.full(1, 0.3, np.float32), 'stuff_threshold': np.full(1, 0.3)}
    arguments = tuple(a[None] for a in arrays), fields
    label_format = LabelFormat(6, thing_classes=(1, 2), ignore_label=0, label_divisor=256)
    label = functools.partial(run, size=(25, 33), canvas=(40, 34), label_format=label_format)
    expected, found = label(*arguments), label(*arguments, platform=platform)
    assert len(np.unique(expected['panoptic'])) > 4
    for key in ('panoptic', 'semantic'):
        assert np.mean(np.asarray(found[key] != expected[key])) < 1e-3, key
    for key in ('class_probability', 'score'):
        close = np.isclose(found[key], expected[key], atol=1e-4)
        assert close.mean() > 0.999, key


def test_steps_are_shorter_where_an_image_was_upsampled_more_than_the_canvas_suggests():
    """A small image on a large canvas needs more rows of logits per row of labels."""
    masks, classes = random_inputs(batch=1, size=(33, 9))
    sizes = np.array([[129, 33]]), np.array([[40, 30]])
    fields = {'min_score': np.zeros(1, np.float32)}
    arguments = tuple(a[None] for a in (masks, classes, *sizes)), fields
    label_format = LabelFormat(5, thing_classes=(1, 2), ignore_label=255, label_divisor=256)
    label = functools.partial(run, size=(129, 33), label_format=label_format)
    large = label(*arguments, canvas=(256, 33))['panoptic'][0, 0, :40, :30]
    small = label(*arguments, canvas=(40, 30))['panoptic'][0, 0]
    np.testing.assert_array_equal(large, small)


def test_devices_label_their_own_images():
    masks, classes = random_inputs(batch=4)
    label_format = LabelFormat(5, thing_classes=(1, 2), ignore_label=255, label_divisor=256)

    def label(masks, classes):
        options = MaskPostprocessOptions(thing_threshold=0.3, stuff_threshold=0.3)
        with pin_platform('cpu'):
            return label_masks(
                masks, classes, label_format=label_format, options=options, size=(25, 33)
            )

    expected = jax.jit(label, compiler_options=OPTIONS)(masks, classes)
    mesh = jax.make_mesh((2, 2), ('data', 'space'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        found = jax.jit(label, compiler_options=OPTIONS)(masks, classes)
    for key, values in expected.items():
        np.testing.assert_array_equal(np.asarray(values), np.asarray(found[key]), err_msg=key)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'convention': 'tf'}, r"config\.postprocess\.convention \(='tf'\) must be one of"),
        ({'merge_rule': 'best'}, r"config\.postprocess\.merge_rule \(='best'\)"),
        ({'overlap_threshold': 1.5}, r'overlap_threshold \(=1\.5\) must lie in \[0, 1\]'),
        ({'pixel_threshold': 0.3}, r'pixel_threshold \(=0\.3\) must not be below 1/3'),
        ({'mask_exponent': -1}, r'mask_exponent \(=-1\) must not be negative'),
        ({'thing_area_limit_px': -1}, r'thing_area_limit_px \(=-1\) must not be negative'),
    ],
)
def test_options_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskPostprocessOptions(**fields)
    assert MaskPostprocessOptions(merge_rule='pixel_wise', pixel_threshold=0.2)


@pytest.mark.parametrize(
    ('num_classes', 'divisor', 'message'),
    [
        (7, 256, '5 classes but the label format has 7'),
        (5, 12, r'label_divisor \(=12\) must exceed'),
    ],
)
def test_logits_must_fit_the_label_format(num_classes, divisor, message):
    masks, classes = (jnp.asarray(a) for a in random_inputs())
    label_format = LabelFormat(num_classes, (1,), ignore_label=255, label_divisor=divisor)
    with pytest.raises(ValueError, match=message):
        label_masks(
            masks,
            classes,
            label_format=label_format,
            options=MaskPostprocessOptions(),
            size=(25, 33),
        )
