"""Computing parts of a network again changes what is kept, not what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.deeplab import DeepLab
from pdl_jax.presets import make_options
from pdl_jax.training.rematerialization import rematerialize

IMAGE = np.random.default_rng(0).normal(size=(2, 33, 33, 3)).astype(np.float32)


def _make_model():
    # One branch: another of the same modules shows nothing new and takes as long to compile.
    parts = ('features', 'aspp_features', 'head_features')
    narrow = {'has_instances': False, **{f'semantic_{part}': 8 for part in parts}}
    return DeepLab(
        4,
        make_options(
            'deeplab2/resnet50_os16', backbone='resnet18', width_multiplier=0.125, **narrow
        ),
    )


def _run(regexes):
    """Gradients and new statistics, and what the backward pass is given by the forward pass."""
    model = _make_model()
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    variables = structure.unflatten(
        [jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype) for x in leaves]
    )

    def loss_of(params):
        with rematerialize(regexes):
            outputs, updates = model.apply(
                {**variables, 'params': params},
                IMAGE,
                train=True,
                rngs={'dropout': jax.random.key(2)},
                mutable=['batch_stats'],
            )
        return sum(jnp.mean(x**2) for x in jax.tree.leaves(outputs)), updates['batch_stats']

    step = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    _, backward = jax.eval_shape(lambda p: jax.vjp(lambda q: loss_of(q)[0], p), variables['params'])
    num_kept = sum(x.size for x in jax.tree.leaves(backward)) - sum(
        x.size for x in jax.tree.leaves(variables['params'])
    )
    compiled = step.lower(variables['params']).compile(
        compiler_options={'xla_backend_optimization_level': 0}
    )
    return compiled(variables['params']), num_kept


@pytest.mark.slow
def test_gradients_stay_and_less_is_kept():
    expected, num_kept = _run(())
    actual, num_kept_by_units = _run((r'backbone/stage\d_block\d$', 'decoder$', 'head$'))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), actual, expected
    )
    assert num_kept_by_units < num_kept / 3


def test_regex_that_matches_nothing_is_refused():
    model = _make_model()
    with pytest.raises(
        ValueError, match=r"no module of the network matches \['decodr'\] of config.train.remat"
    ):
        with rematerialize(('decoder$', 'decodr')):
            jax.eval_shape(model.init, jax.random.key(0), IMAGE)
