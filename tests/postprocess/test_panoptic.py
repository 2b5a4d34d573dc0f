"""The whole post-processing: reference programs, memory and sharding."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.panoptic import PostprocessOptions, label_semantic, post_process
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.typing import LabelFormat

CASES = """all_below_threshold all_stuff all_thing border_centers equidistant_centers
large_nms_merges majority_tie majority_vote no_centers plateau_tie random_00 random_01 random_03
random_05 score_equals_threshold stuff_area_below stuff_area_equal topk_below_count
topk_equals_count topk_one toy_basic""".split()
# As many peaks as centres, or more: there the originals keep fewer, or an arbitrary choice.
TOP_K_CASES = {'topk_below_count', 'topk_equals_count', 'topk_one'}
RULES = {
    'bowen': {'top_k_rule': 'above_kth'},
    'd2': {'top_k_rule': 'above_kth'},
    'deeplab2_op': {'is_limit_void': True, 'is_rest_instance': True},
}


def read_case(find_golden, name):
    with np.load(find_golden('postprocess', name)) as arrays:
        case = dict(arrays)
    return case, json.loads(str(case['params']))


def make_outputs(case, num_classes):
    """Logits of the semantic map where the case has none; a batch of one."""
    if 'sem_logits' in case:
        logits = np.moveaxis(case['sem_logits'], 0, -1)
    else:
        logits = np.eye(num_classes, dtype=np.float32)[case['sem']] * 4
    offset = np.moveaxis(case['offset'], 0, -1)
    outputs = {'semantic': logits, 'center': case['heatmap'][..., None], 'offset': offset}
    return {name: array[None] for name, array in outputs.items()}


def renumber(panoptic, divisor):
    """Numbers the instances of every class in raster order."""
    result, count = panoptic.copy(), {}
    for label in dict.fromkeys(panoptic.ravel().tolist()):
        if label % divisor:
            count[label // divisor] = count.get(label // divisor, 0) + 1
            result[panoptic == label] = label // divisor * divisor + count[label // divisor]
    return result


@functools.partial(
    jax.jit,
    static_argnames=('label_format', 'options', 'size', 'resize'),
    # Each program runs once: compiling costs more than what better code would save.
    compiler_options={'xla_backend_optimization_level': 0},
)
def run(outputs, *, label_format, options, size=None, resize='corner_aligned', image_size=None):
    return post_process(
        outputs,
        label_format=label_format,
        options=options,
        size=size,
        resize=resize,
        image_size=image_size,
    )


def process_case(case, params, **rules):
    label_format = LabelFormat(
        params['num_classes'],
        tuple(params['thing_ids']),
        params['ignore_label'],
        params['label_divisor'],
    )
    options = PostprocessOptions(
        center_threshold=params['threshold'],
        nms_kernel_px=params['nms_kernel'],
        max_centers=params['top_k'],
        stuff_area_limit_px=params['stuff_area'],
        **rules,
    )
    outputs = make_outputs(case, params['num_classes'])
    return jax.tree.map(np.asarray, run(outputs, label_format=label_format, options=options))


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_equals_reference_programs(find_golden, name):
    case, params = read_case(find_golden, name)
    result = process_case(case, params)
    np.testing.assert_array_equal(result['semantic'][0], case['sem'])
    centers = result['centers'][0][result['center_valid'][0]]
    assert sorted(map(tuple, centers)) == sorted(map(tuple, case['brute_centers'].tolist()))

    is_clear, divisor = ~case['ambiguous'], params['label_divisor']
    void = params['ignore_label'] * divisor
    references = ['brute'] if name in TOP_K_CASES else ['brute', 'deeplab2_tf']
    for reference in references:
        ours, theirs = result['panoptic'][0], case[reference]
        np.testing.assert_array_equal(
            renumber(np.where(is_clear, ours, void), divisor),
            renumber(np.where(is_clear, theirs, void), divisor),
            err_msg=reference,
        )


@pytest.mark.slow
@pytest.mark.parametrize('convention', RULES)
@pytest.mark.parametrize('name', CASES)
def test_equals_reference_programs_in_their_conventions(find_golden, name, convention):
    if convention == 'deeplab2_op' and name in TOP_K_CASES:
        pytest.skip('the choice of its unsorted top_k is arbitrary')
    case, params = read_case(find_golden, name)
    result = process_case(case, params, **RULES[convention])
    is_clear, divisor = ~case['ambiguous'], params['label_divisor']
    void = params['ignore_label'] * divisor
    # detectron2 writes void as -1.
    theirs = np.where(case[convention] < 0, void, case[convention])
    np.testing.assert_array_equal(
        renumber(np.where(is_clear, result['panoptic'][0], void), divisor),
        renumber(np.where(is_clear, theirs, void), divisor),
    )
    if convention != 'deeplab2_op':
        centers = result['centers'][0][result['center_valid'][0]]
        assert sorted(map(tuple, centers)) == sorted(
            map(tuple, case[f'{convention}_centers'].tolist())
        )


def test_toy_of_deeplab2():
    heatmap = np.zeros((5, 5), np.float32)
    heatmap[0, 0], heatmap[1, 0] = 1, 0.8
    heatmap[3, 3], heatmap[3, 4], heatmap[4, 4] = 0.1, 0.7, 0.2
    centers, scores, valid = find_centers(heatmap, threshold=0.0, kernel_px=3, max_centers=2)
    instance = group_pixels(centers, valid, np.zeros((5, 5, 2), np.float32))
    rows = ['11112', '11122', '11222', '12222', '12222']
    np.testing.assert_array_equal(instance, [[int(c) for c in row] for row in rows])
    np.testing.assert_array_equal(scores, np.array([1.0, 0.7], np.float32))


def test_center_score_lies_on_things_only(find_golden):
    case, params = read_case(find_golden, 'random_00')
    result = process_case(case, params)
    is_thing = np.isin(result['semantic'][0], params['thing_ids'])
    np.testing.assert_array_equal(result['instance'][0] > 0, is_thing)
    centers = result['centers'][0].astype(int)
    heat = case['heatmap'][tuple(centers[result['instance'][0] - 1].transpose(2, 0, 1))]
    np.testing.assert_array_equal(result['center_score'][0], np.where(is_thing, heat, 0))


def score_segments(probability, heatmap, panoptic, params, rule):
    """Scores things as detectron2 ('centroid') and DeepLab2 ('assigned') do, mask by mask."""
    divisor, scores = params['label_divisor'], {}
    for label in np.unique(panoptic):
        if label // divisor not in params['thing_ids']:
            continue
        mask = panoptic == label
        if rule == 'centroid':
            y, x = (int(np.mean(axis)) for axis in np.nonzero(mask))
            heat = heatmap[y, x]
        else:
            heat = heatmap[mask].mean()
        scores[int(label)] = probability[label // divisor][mask].mean() * heat
    return scores


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['centroid', 'assigned'])
@pytest.mark.parametrize('name', ['random_00', 'random_03', 'majority_vote'])
def test_scores_average_the_class_of_the_segment(find_golden, name, rule):
    """Not each pixel's own class, which the vote may have overruled."""
    case, params = read_case(find_golden, name)
    result = process_case(case, params, score_rule=rule)
    label_format = LabelFormat(
        params['num_classes'],
        tuple(params['thing_ids']),
        params['ignore_label'],
        params['label_divisor'],
    )
    panoptic = result['panoptic'][0]
    logits = make_outputs(case, params['num_classes'])['semantic'][0]
    probability = np.moveaxis(np.asarray(jax.nn.softmax(logits)), -1, 0)
    voted = panoptic // params['label_divisor']
    is_thing = np.isin(voted, params['thing_ids'])
    assert (voted != result['semantic'][0])[is_thing].any()
    # The heat of its centre, which tests of `center_score` check.
    heat = case['heatmap'] if rule == 'centroid' else result['center_score'][0]
    expected = score_segments(probability, heat, panoptic, params, rule)
    table = segment_table(
        panoptic,
        result['class_probability'][0],
        result['center_score'][0],
        label_format=label_format,
        max_segments=64,
    )
    scores = dict(zip(table['label'].tolist(), table['score'].tolist(), strict=True))
    assert expected
    for label, score in expected.items():
        np.testing.assert_allclose(scores[label], score, rtol=1e-4)


def describe_outputs(batch, height, width):
    def describe(channels):
        return jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)

    return {'semantic': describe(19), 'center': describe(1), 'offset': describe(2)}


CITYSCAPES = {
    'label_format': LabelFormat(19, tuple(range(11, 19)), 255, 1000),
    'options': PostprocessOptions(nms_kernel_px=7),
}


@pytest.mark.parametrize('batch', [1, 2])
def test_memory_per_image_at_full_resolution(batch):
    outputs = describe_outputs(batch, 1025, 2049)
    memory = run.lower(outputs, **CITYSCAPES).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 100e6 * batch


def test_batch_sharded_over_devices_stays_there():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ('data',))
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    rng = np.random.default_rng(0)
    outputs = {
        'semantic': rng.normal(0, 1, (4, 48, 64, 19)).astype(np.float32),
        'center': rng.random((4, 48, 64, 1), np.float32),
        'offset': rng.normal(0, 4, (4, 48, 64, 2)).astype(np.float32),
    }
    sharded = jax.device_put(outputs, sharding)
    compiled = run.lower(sharded, **CITYSCAPES).compile()
    for collective in ('all-gather', 'all-to-all', 'collective-permute'):
        assert f' {collective}(' not in compiled.as_text()
    expected = run(outputs, **CITYSCAPES)
    for name, value in compiled(sharded).items():
        assert value.sharding.is_equivalent_to(sharding, value.ndim), name
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('resize', 'size'), [('corner_aligned', (33, 65)), ('half_pixel', (36, 60))]
)
def test_small_logits_give_the_maps_of_upsampled_ones(resize, size):
    rng = np.random.default_rng(0)
    small = rng.normal(0, 3, (2, 9, 15 + (resize == 'corner_aligned') * 2, 19)).astype(np.float32)
    maps = {
        'center': rng.random((2, *size, 1), np.float32),
        'offset': rng.normal(0, 4, (2, *size, 2)).astype(np.float32),
    }
    label_format = CITYSCAPES['label_format']
    rules = {
        'label_format': label_format,
        'options': PostprocessOptions(nms_kernel_px=7, stuff_area_limit_px=5),
    }
    expected = run({'semantic': resize_bilinear(small, size, resize), **maps}, **rules)
    result = run({'semantic': small, **maps}, **rules, size=size, resize=resize)
    # No two classes tie here.
    np.testing.assert_allclose(
        result.pop('class_probability'), expected.pop('class_probability'), rtol=1e-5
    )
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    semantic, *_ = label_semantic(small, label_format=label_format, size=size, resize=resize)
    np.testing.assert_array_equal(semantic, expected['semantic'])


@pytest.mark.slow
def test_padding_is_cut_as_if_it_had_never_been_there():
    """detectron2 crops its heads to the image first; in the padding they say anything."""
    rng = np.random.default_rng(0)
    sizes, canvas = np.array([[37, 48], [48, 30]]), (48, 48)
    outputs = {
        'semantic': rng.normal(0, 3, (2, 12, 12, 19)).astype(np.float32),
        'center': rng.random((2, *canvas, 1), np.float32),
        'offset': rng.normal(0, 4, (2, *canvas, 2)).astype(np.float32),
    }
    options = PostprocessOptions(
        nms_kernel_px=7,
        stuff_area_limit_px=40,
        score_rule='centroid',
        top_k_rule='above_kth',
        max_centers=20,
        is_padding_cut=True,
    )
    rules = {'label_format': CITYSCAPES['label_format'], 'options': options}
    small = {'size': canvas, 'resize': 'half_pixel'}
    result = run(outputs, **rules, **small, image_size=sizes)
    whole = run(outputs, **rules, **small)
    full = {**outputs, 'semantic': resize_bilinear(outputs['semantic'], canvas, 'half_pixel')}
    for i, (height, width) in enumerate(sizes):
        cut = {name: array[i : i + 1, :height, :width] for name, array in full.items()}
        expected = run(cut, **rules)
        for name in ('panoptic', 'instance', 'semantic', 'center_score', 'class_probability'):
            ours = np.asarray(result[name])[i, :height, :width]
            np.testing.assert_allclose(ours, expected[name][0], rtol=1e-5, err_msg=name)
        assert (np.asarray(whole['panoptic'])[i, :height, :width] != expected['panoptic'][0]).any()
        outside = np.ones(canvas, bool)
        outside[:height, :width] = False
        assert (np.asarray(result['panoptic'])[i][outside] == 255_000).all()


def test_errors_name_the_classes():
    with pytest.raises(ValueError, match='has 5 classes but the label format has 19'):
        post_process({'semantic': np.zeros((1, 4, 4, 5), np.float32)}, **CITYSCAPES)
