"""Whole networks: backbones with every kind of decoder, gradients of each family, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones import BACKBONES
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.presets import make_options
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.variables import restore_variables
from pdl_jax.training.state import TrainState

MODELS = {
    'panoptic': 'deeplab2/resnet50_os16',
    'detectron2': 'detectron2/resnet52_os16',
    'three_skips': 'bowenc0221/resnet50_os32',
    'deeplab_v3': 'deeplab2/deeplab_v3_resnet50_os32',
    'deeplab_v3plus': 'tensorflow/deeplab_v3plus_xception65_os16',
    'dense_prediction_cell': 'tensorflow/deeplab_v3plus_xception71_dpc_os16',
    'lr_aspp': 'tensorflow/lr_aspp_mobilenet_v3_large_os16',
}
# These programs run once: compiling costs more than what it would save.
QUICK = {'xla_backend_optimization_level': 0}
RNGS = {'dropout': jax.random.key(1)}
SIZES = [(33, 41), (64, 50), (70, 91), (37, 100), (17, 20), (9, 130)]
# A backbone of every family with a kind of decoder and a small width.
FAMILIES = {
    'resnet18': ('panoptic', 0.125),
    'resnet50_beta': ('detectron2', 0.125),
    'swidernet_sac_1_1_1': ('deeplab_v3', 0.0625),
    'xception41': ('deeplab_v3plus', 0.0625),
    'mobilenet_v2': ('dense_prediction_cell', 0.25),
    'mobilenet_v3_small': ('lr_aspp', 0.5),
    'hrnet_w18': ('three_skips', 0.25),
    'convnext_tiny': ('panoptic', 0.125),
}
# Those that compile quickly; the backbones' own tests differentiate the others.
COMPILED = ('resnet18', 'mobilenet_v3_small')


def _make(name, backbone, dtype, width=1.0):
    narrow = (
        {}
        if width == 1
        else dict.fromkeys(
            [
                f'{b}_{part}'
                for b in ('semantic', 'instance')
                for part in ('features', 'aspp_features', 'head_features')
            ],
            8,
        )
    )
    options = make_options(MODELS[name], backbone=backbone, width_multiplier=width, **narrow)
    return DeepLab(3, options, pool_crop=(33, 33), dtype=dtype)


def _loss(model, size, params, batch_stats, image):
    """Computes a number that depends on every output, and the new statistics."""
    outputs, updates = model.apply(
        {'params': params, **batch_stats},
        image,
        train=True,
        mutable=['batch_stats'],
        rngs=RNGS,
    )
    large = model.upsample(outputs, size)
    return sum(jnp.mean(x**2) for x in large.values()), (large, updates)


def _differentiate(model, size, variables, image):
    params, others = (
        variables['params'],
        {key: variables[key] for key in variables if key != 'params'},
    )
    return jax.value_and_grad(functools.partial(_loss, model, size), has_aux=True)(
        params, others, image
    )


def _cases():
    """Every backbone, under each kind of decoder in turn, in either precision."""
    names = sorted(MODELS)
    # CIFAR-10's have one scale, and so no decoder.
    backbones = [name for name in sorted(BACKBONES) if not name.startswith('cifar_')]
    for i, backbone in enumerate(backbones):
        yield names[i % len(names)], backbone, ('float32', 'bfloat16')[i % 2], SIZES[i % len(SIZES)]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'backbone', 'dtype', 'size'), _cases())
def test_any_backbone_under_any_decoder_at_any_size(name, backbone, dtype, size):
    model = _make(name, backbone, jnp.dtype(dtype))

    def run():
        outputs, variables = model.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 3)))
        return variables, model.upsample(outputs, size)

    variables, outputs = jax.eval_shape(run)
    assert set(outputs) == (
        {'semantic', 'center', 'offset'} if model.options.instance is not None else {'semantic'}
    )
    assert {x.shape[:3] for x in outputs.values()} == {(2, *size)}
    # Outputs, parameters and statistics are float32 whatever the precision of activations.
    assert {x.dtype for x in jax.tree.leaves((variables, outputs))} == {jnp.dtype('float32')}


@pytest.mark.slow
@pytest.mark.parametrize('backbone', COMPILED)
def test_every_parameter_takes_part(backbone):
    """A finite gradient reaches every parameter, and bfloat16 gives about the same outputs."""
    name, width = FAMILIES[backbone]
    size = (33, 49)
    image = jax.random.normal(jax.random.key(2), (2, *size, 3))
    model = _make(name, backbone, jnp.float32, width)
    rng = np.random.default_rng(0)

    def draw(path, x):
        # No variable starts at zero, which would block gradients.
        last = path[-1].key
        center = 1.0 if last in ('scale', 'var') else 0.0
        spread = 1 / np.sqrt(np.prod(x.shape[:-1])) if last == 'kernel' else 0.2 - 0.1 * center
        return jnp.asarray(center + spread * rng.normal(size=x.shape), jnp.float32)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    differentiate = jax.jit(functools.partial(_differentiate, model, size), compiler_options=QUICK)
    (loss, (large, _)), gradients = differentiate(variables, image)
    assert np.isfinite(loss)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.any(gradient != 0), jax.tree_util.keystr(path)

    def answer(variables, image):
        half = _make(name, backbone, jnp.bfloat16, width)
        return half.upsample(
            half.apply(variables, image, train=True, mutable=['batch_stats'], rngs=RNGS)[0], size
        )

    for key, value in jax.jit(answer, compiler_options=QUICK)(variables, image).items():
        error = float(jnp.mean(jnp.abs(value - large[key])))
        assert error < 0.5 * float(jnp.std(large[key])), key


@pytest.mark.slow
@pytest.mark.parametrize('backbone', FAMILIES)
def test_checkpoints_give_back_every_variable(backbone, tmp_path):
    name, width = FAMILIES[backbone]
    model = _make(name, backbone, jnp.float32, width)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3))))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables['params'],
        batch_stats=variables['batch_stats'],
        opt_state=(),
        ema_variables=None,
    )
    checkpointer = Checkpointer(str(tmp_path), keep=1)
    checkpointer.save(state, step=3, input_position={}, description={})
    checkpointer.close()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    restored = restore_variables(find_checkpoint(str(tmp_path)), shapes, device)
    assert jax.tree.structure(restored) == jax.tree.structure(shapes)
    jax.tree.map(np.testing.assert_array_equal, restored, dict(variables))
