"""MaX-DeepLab-S against DeepLab2's, with variables by rule; its predictions and its parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.dual_path import DualPathLayer
from pdl_jax.models.max_deeplab import MaXDeepLab
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.models.options import BackboneOptions
from pdl_jax.presets import make_any_network
from tests.models.axial_goldens import AxialGolden
from tests.models.backbones import probe

# Our names by DeepLab2's, of what surrounds the backbone.
_RENAMES = (
    (r'^memory_feature$', 'queries'),
    (r'^(stem|stage[2-5])/', r'backbone/\1/'),
    (r'^backbone/stage5/block(\d)_transformer/', r'exchange\1/'),
    (r'^backbone/(stage\d)/block(\d)/', r'backbone/\1_block\2/'),
    (r'^stage5_extra/block1_transformer/', 'extra_exchange/'),
    (r'^stage5_extra/block1/', 'extra_block/'),
    (r'^decoder_stage(\d)_extra/block1/', r'decoder_block\1/'),
    (r'^decoder_stage(\d)_extra_resized_fuse/resized_conv_bn1/', r'fusion\1/project_coarse/'),
    (r'^(class|mask)_feature_extra/', r'\1_embedding/'),
    ('memory_', 'queries_'),
    ('pixel_', 'pixels_'),
    (r'_conv1_bn_act/', '/'),
    (r'_qkv_conv_bn/', '_query_key_value/'),
    (r'_conv3_bn/', '_output/'),
    (r'queries_ffn/', 'ffn_expand/'),
    (r'queries_ffn_conv2_bn/', 'ffn_project/'),
)
HEADS = ('predictor', 'semantic_decoder', 'semantic_head')


@pytest.mark.slow
def test_features_are_those_of_deeplab2(shared_dir):
    golden = AxialGolden(shared_dir, 'max_deeplab_s_65x65')
    module = MaXDeepLab(5)
    shapes = probe.make_shapes(module)
    heads = {
        kind: {name: collection.pop(name) for name in HEADS if name in collection}
        for kind, collection in shapes.items()
    }
    assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == golden.num_parameters
    variables = golden.make_variables(shapes, _RENAMES)
    heads = probe.make_variables(heads)
    variables = {kind: {**variables[kind], **heads[kind]} for kind in variables}

    @jax.jit
    def compute(variables, image):
        parts = ('backbone', 'class_embedding', 'mask_embedding', 'decoder_block2')
        _, state = module.apply(
            variables,
            image,
            capture_intermediates=lambda part, _: part.name in parts,
            mutable=['intermediates'],
        )
        return {key: value['__call__'][0] for key, value in state['intermediates'].items()}

    found = compute(variables, golden.make_image())
    backbone = found['backbone']
    assert golden.find_error('stage3', backbone['stride8']) < 1e-4
    assert golden.find_error('stage4', backbone['stride16']) < 1e-3
    assert golden.find_error('res5', backbone['last']) < 3e-2
    assert golden.find_error('transformer_class_feature', found['class_embedding'][:, 0]) < 3e-2
    assert golden.find_error('transformer_mask_feature', found['mask_embedding'][:, 0]) < 3e-2
    assert golden.find_error('feature_panoptic', nn.relu(found['decoder_block2'])) < 5e-2


@pytest.mark.slow
def test_parameters_of_inference_are_those_that_deeplab2_counts():
    module = MaXDeepLab(133, make_any_network('deeplab2/max_deeplab_s_os16'))
    params = probe.make_shapes(module)['params']
    used = {name: x for name, x in params.items() if not name.startswith('semantic')}
    assert sum(x.size for x in jax.tree.leaves(used)) == 61_900_200


@pytest.mark.slow
def test_predictions_have_the_documented_shapes():
    module = MaXDeepLab(5)
    image = jnp.zeros((2, 33, 50, 3))

    outputs, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), image))
    assert outputs.pop('auxiliary') == []
    assert outputs['mask_logits'].shape == (2, 9, 13, 128)
    assert outputs['class_logits'].shape == (2, 128, 6)
    assert outputs['semantic'].shape == (2, 9, 13, 6)
    assert outputs['pixel_feature'].shape == (2, 9, 13, 128)
    assert {x.dtype for x in outputs.values()} == {jnp.dtype('float32')}
    assert variables['params']['queries'].shape == (128, 256)


def attend(query, key, value, params, statistics):
    """Attention f64[N, D] of two heads, query by query."""
    heads = []
    for q, k, v, head in zip(
        *(np.split(x, 2, axis=-1) for x in (query, key, value)), range(2), strict=True
    ):
        logits = q @ k.T
        norm, moments = params['similarity_norm'], statistics['similarity_norm']
        logits = (logits - moments['mean'][head]) / np.sqrt(moments['var'][head] + 1e-3)
        logits = logits * norm['scale'][head] + norm['bias'][head]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return normalize(np.concatenate(heads, axis=-1), params, statistics, 'retrieved_norm')


def normalize(x, params, statistics, name='norm'):
    norm, moments = params[name], statistics[name]
    x = (x - moments['mean']) / np.sqrt(moments['var'] + 1e-3)
    return x * norm['scale'] + norm['bias']


def test_pixels_and_queries_exchange_as_defined():
    layer = DualPathLayer(features=8, ffn_features=6, num_heads=2)
    pixels = jax.random.normal(jax.random.key(0), (1, 2, 3, 5))
    queries = jax.random.normal(jax.random.key(1), (1, 1, 4, 8))
    variables = probe.make_variables(
        jax.eval_shape(lambda: layer.init(jax.random.key(0), pixels, queries, train=False))
    )
    found = jax.jit(lambda v: layer.apply(v, pixels, queries, train=False))(variables)

    arrays = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    params, statistics = arrays['params'], arrays['batch_stats']

    def project(name, x):
        x = x @ params[name]['conv']['kernel'][0, 0]
        return normalize(x, params[name], statistics[name])

    def relu(x):
        return np.maximum(x, 0)

    def split(name, x):
        x = project(f'{name}_query_key_value', relu(project(name, x)))
        return np.split(x, [4, 8], axis=-1)

    x, y = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (pixels, queries))
    pixel_query, pixel_key, pixel_value = split('pixels', relu(x))
    query, key, value = split('queries', y)
    keys, values = np.concatenate([pixel_key, key]), np.concatenate([pixel_value, value])
    name = 'queries_attention'
    retrieved = attend(query, keys, values, params[name], statistics[name])
    name = 'pixels_attention'
    read = attend(pixel_query, key, value, params[name], statistics[name])
    x = x + project('pixels_output', relu(read))
    y = relu(y + project('queries_output', relu(retrieved)))
    y = relu(y + project('ffn_project', relu(project('ffn_expand', y))))
    np.testing.assert_allclose(found[0].reshape(x.shape), x, atol=1e-4)
    np.testing.assert_allclose(found[1].reshape(y.shape), y, atol=1e-4)


def test_decoder_needs_features_before_their_activation():
    with pytest.raises(ValueError, match='endpoints'):
        MaXNetworkOptions(backbone=BackboneOptions('max_s', output_stride=16))
