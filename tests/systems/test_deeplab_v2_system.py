"""Training of a network with several input scales, as DeepLab v2."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.presets import make_options
from pdl_jax.systems.semantic_deeplab import SemanticDeepLab, SemanticDeepLabOptions
from pdl_jax.systems.system import Samples
from pdl_jax.typing import LabelFormat
from tests import toy_backbone

LABEL_FORMAT = LabelFormat(3, thing_classes=(1,), ignore_label=255, label_divisor=256)


@pytest.fixture(scope='module')
def system():
    preset = 'deeplab_pytorch/deeplab_v2_resnet101_os8'
    model = make_options(preset, backbone=toy_backbone.NAME, aspp_rates=(1, 2))
    loss = LossOptions(semantic_size='logits', top_k_fraction=1.0)
    return SemanticDeepLab(LABEL_FORMAT, SemanticDeepLabOptions((32, 32), model=model, loss=loss))


def test_every_scale_is_supervised_and_trains_every_parameter(system):
    rng = np.random.default_rng(0)
    panoptic = jnp.asarray(rng.integers(0, 3, (2, 32, 40)) * 256, jnp.int32)
    image = jnp.asarray(rng.normal(size=(2, 32, 40, 3)) * 50, jnp.float32)
    variables = system.init(jax.random.key(0))

    @jax.jit
    def differentiate(variables):
        def compute(params):
            return system.loss(
                {**variables, 'params': params}, Samples(image, panoptic), rng=jax.random.key(1)
            )

        (loss, (terms, _)), gradients = jax.value_and_grad(compute, has_aux=True)(
            variables['params']
        )
        return loss, terms, gradients, system.outputs(variables, image)

    loss, terms, gradients, outputs = differentiate(variables)
    assert terms.keys() == {'semantic', 'semantic_0', 'semantic_1', 'semantic_2'}
    assert float(loss) == pytest.approx(sum(map(float, terms.values())), rel=1e-6)
    assert outputs.keys() == {'semantic'} and outputs['semantic'].shape == (2, 4, 5, 3)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all() and np.any(gradient != 0), name
    maps = system.label_maps(outputs, size=(32, 40))
    assert maps.panoptic.shape == (2, 32, 40)


def test_logits_train_faster_than_the_rest(system):
    groups = system.parameter_groups
    factors = {
        path: next((g.learning_rate_factor for g in groups if re.search(g.regex, path)), 1)
        for path in (
            'semantic_decoder/branch_1/predict/kernel',
            'semantic_decoder/branch_2/predict/bias',
            'semantic_decoder/branch_1/fc6/kernel',
            'backbone/stem/conv/kernel',
        )
    }
    assert list(factors.values()) == [10, 20, 1, 1]
