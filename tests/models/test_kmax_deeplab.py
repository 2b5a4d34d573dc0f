"""kMaX-DeepLab: its size, its values beside the PyTorch program's, and its invariances."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.kmax_deeplab import KMaXDeepLab
from pdl_jax.models.kmax_options import KMAX_FIELDS
from pdl_jax.models.kmeans_decoder import sum_by_query
from pdl_jax.models.pixel_decoder import resize_mode
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.presets import make_any_network
from tests import kmax_goldens
from tests.convert.compiling import run_fast

_CLASSES = {'coco': 133, 'cityscapes': 19, 'ade20k': 150}
# Variables behind the parts of the original, by our names.
_TRAINING_ONLY = ('semantic_decoder', 'semantic_head')
_TINY = {
    'backbone': 'mobilenet_v3_small',
    'width_multiplier': 0.25,
    'decoder_features': (16, 8, 8, 8),
    'decoder_depths': (1, 1, 1, 1),
    'transformer_depths': (1, 1),
    'num_queries': 6,
    'query_features': 16,
    'mask_features': 8,
    'ffn_features': 32,
    'num_heads': 2,
    'transformer_keep_prob': 1.0,
    'semantic_branch': 'head',
}


def count_parameters(options, num_classes):
    model = KMaXDeepLab(num_classes, options)
    variables = eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))
    return {
        part: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
        for part, tree in variables['params'].items()
    }


def test_parameters_are_those_of_the_originals(shared_dir):
    text = (shared_dir / 'golden' / 'kmax' / 'parameters.json').read_text()
    golden = json.loads(text)
    assert len(golden) == 15
    for name, wanted in golden.items():
        backbone, dataset = name.split('/')
        preset = f'kmax_pytorch/{backbone.replace("r50", "resnet50")}_{dataset}'
        parts = count_parameters(make_any_network(preset), _CLASSES[dataset])
        auxiliary = sum(parts[part] for part in _TRAINING_ONLY if part in parts)
        layers = [parts[f'layer{i}'] for i in range(1, 7)]
        found = {
            'total': sum(parts.values()),
            'inference': sum(parts.values()) - auxiliary,
            'backbone': parts['backbone'],
            'pixel_decoder': parts['pixel_decoder'],
            'transformer_layers': sum(layers),
            'transformer_layer': layers,
            'final_predictor': parts['predictor'],
            'cluster_centers': parts['queries'],
            'class_embedding': parts['class_embedding'],
            'mask_embedding': parts['mask_embedding'],
            'aux_semantic': auxiliary,
        }
        assert found == {key: wanted[key] for key in found}, name


@pytest.mark.slow
@pytest.mark.parametrize(
    'case',
    ['r50_coco_97x97', 'r50_coco_64x96', 'r50_cityscapes_65x129', 'convnext_tiny_coco_65x97'],
)
def test_values_are_those_of_the_original(case, shared_dir):
    golden = np.load(shared_dir / 'golden' / 'kmax' / f'forward_{case}.npz')
    name, _, size = case.rpartition('_')
    size = tuple(map(int, size.split('x')))
    arrays = kmax_goldens.draw_weights(shared_dir, name, int(golden['weight_salt']))
    conversion, variables = kmax_goldens.convert(arrays, name)
    model = conversion.network.make_module(conversion.num_classes)
    image = kmax_goldens.draw_image(shared_dir, 1, size, int(golden['image_salt']))

    def run(variables, image):
        outputs, state = model.apply(
            variables,
            image,
            with_auxiliary=True,
            capture_intermediates=lambda module, _: module.name == 'pixel_decoder',
            mutable=['intermediates'],
        )
        size = outputs['mask_logits'].shape[1:3]
        mode = resize_mode(model.options.resize, size[0])
        upsampled = [
            {**x, 'mask_logits': resize_bilinear(x['mask_logits'], size, mode)}
            for x in outputs['auxiliary']
        ]
        return outputs, state['intermediates']['pixel_decoder']['__call__'][0], upsampled

    outputs, maps, upsampled = jax.tree.map(np.asarray, run_fast(run, variables, image))
    noise = json.loads(str(golden['rounding_noise']))

    def check(found, key, tolerance):
        found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
        step = round(found.shape[1] / golden[key].shape[1])
        np.testing.assert_allclose(
            found[:, ::step], golden[key], rtol=0, atol=tolerance, err_msg=key
        )

    check(outputs['class_logits'], 'class_logits', 10 * noise['class_logits'])
    check(outputs['mask_logits'], 'mask_logits', 10 * noise['mask_logits'])
    check(outputs['pixel_feature'], 'pixel_feature', 1e-2)
    check(maps[1], 'decoder_os16', 3e-2)
    check(maps[-1], 'decoder_output', 1e-2)
    for i, prediction in enumerate(upsampled):
        if f'aux{i}_mask_logits' in golden:
            for kind in ('mask_logits', 'class_logits'):
                check(prediction[kind], f'aux{i}_{kind}', 10 * noise[kind])
    for i, prediction in enumerate(outputs['auxiliary']):
        logits = prediction['mask_logits'].reshape(-1, prediction['mask_logits'].shape[-1])
        best = np.sort(logits, axis=-1)
        is_certain = best[:, -1] - best[:, -2] > 3e-3
        assert is_certain.mean() > 0.7
        assignment = golden[f'assignment{i}'].reshape(-1)
        np.testing.assert_array_equal(logits.argmax(-1)[is_certain], assignment[is_certain])


def test_every_pixel_is_added_to_one_query():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 7, 4)).astype(np.float32)
    values = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    sums = sum_by_query(logits, values)
    assert sums.shape == (2, 4, 3)
    np.testing.assert_allclose(sums.sum(1), values.sum((1, 2)), atol=1e-5)
    counts = sum_by_query(logits, np.ones_like(values[..., :1]))
    assert counts.sum() == 2 * 5 * 7
    assert jnp.all(jax.grad(lambda x: sum_by_query(x, values).sum())(logits) == 0)


@pytest.fixture(scope='module')
def tiny_network():
    model = KMaXDeepLab(5, KMAX_FIELDS.make(_TINY))
    image = np.random.default_rng(1).normal(size=(2, 33, 65, 3)).astype(np.float32)
    shapes = eval_shape(lambda: model.init(jax.random.key(0), image))
    rng = np.random.default_rng(2)

    def draw(path, x):
        # Residual branches begin at 0 and would hide their order; variances must be positive.
        values = (
            rng.uniform(0.5, 1.5, x.shape)
            if path[-1].key in ('var', 'scale')
            else rng.normal(scale=x.shape[-2] ** -0.5 if len(x.shape) > 1 else 0.1, size=x.shape)
        )
        return np.asarray(values, np.float32)

    return model, jax.tree.map_with_path(draw, shapes), image


def test_permuting_queries_permutes_masks_and_classes(tiny_network):
    model, variables, image = tiny_network
    apply = jax.jit(model.apply)
    order = np.array([3, 0, 5, 1, 4, 2])
    params = {**variables['params'], 'queries': variables['params']['queries'][order]}
    first, second = apply(variables, image), apply({**variables, 'params': params}, image)
    assert first.keys() == {'mask_logits', 'class_logits'}
    np.testing.assert_allclose(first['mask_logits'][..., order], second['mask_logits'], atol=2e-4)
    np.testing.assert_allclose(first['class_logits'][:, order], second['class_logits'], atol=2e-4)


def test_what_only_training_reads_costs_inference_nothing(tiny_network):
    model, variables, image = tiny_network
    relaxed = KMaXDeepLab(5, KMAX_FIELDS.make({**_TINY, 'num_relaxed_layers': 2}))
    programs = [
        jax.jit(network.apply).lower(variables, image).as_text() for network in (model, relaxed)
    ]
    assert programs[0] == programs[1]


def test_the_semantic_branch_of_deeplab2_reads_activated_skips_below_what_is_not():
    fields = {
        **_TINY,
        'backbone': 'resnet18',
        'width_multiplier': 0.125,
        'endpoints': 'unactivated',
    }
    fields |= {'semantic_branch': 'decoder', 'semantic_skip_activation': 'gelu'}
    fields |= {'decoder_inputs': ('stride32', 'stride16', 'stride8', 'stride4')}
    module = KMaXDeepLab(5, KMAX_FIELDS.make(fields))
    found = {}

    def keep(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name != '__call__':
            return result
        if context.module.name == 'backbone':
            found['backbone'] = result
        elif context.module.name == 'semantic_decoder':
            found['decoder'] = args[0]
        return result

    @jax.jit
    def run():
        with nn.intercept_methods(keep):
            module.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (1, 65, 65, 3)))
        return found['backbone'], found['decoder']

    backbone, read = run()
    np.testing.assert_array_equal(read['last'], backbone['stride32'])
    for key in ('stride8', 'stride4'):
        expected = nn.gelu(backbone[key], approximate=False)
        np.testing.assert_allclose(read[key], expected, rtol=1e-5, atol=1e-6)
