"""kMaX-DeepLab computes the same with images, and with their rows, on several devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pdl_jax.ops.placement import split_rows
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.systems.system import Samples
from pdl_jax.typing import LabelFormat
from tests import tiny_systems
from tests.quick_compiler import EXACT

FORMAT = LabelFormat(num_classes=6, thing_classes=(3, 4, 5), ignore_label=255, label_divisor=1000)


def draw_samples():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 65, 65, 3)).astype(np.float32)
    blocks = rng.choice([0, 1000, 3001, 3002, 4001, 255000], (8, 9, 9)).astype(np.int32)
    return Samples(image, np.repeat(np.repeat(blocks, 8, 1), 8, 2)[:, :65, :65])


@pytest.mark.slow
def test_the_gradients_do_not_depend_on_the_mesh():
    system = tiny_systems.make_tiny_system(
        'kmax_deeplab', FORMAT, model__num_relaxed_layers=0, loss__class_relaxation=0.0
    )
    variables = jax.device_get(jax.jit(system.init, compiler_options=EXACT)(jax.random.key(0)))

    def differentiate(variables, samples):
        samples = Samples(*map(split_rows, samples))

        def compute(params):
            return system.loss({**variables, 'params': params}, samples, rng=jax.random.key(0))[0]

        return jax.value_and_grad(compute)(variables['params'])

    results = []
    for space in (1, 2):
        mesh = make_mesh(-1, space)
        placed = jax.device_put(variables, NamedSharding(mesh, P()))
        samples = jax.device_put(draw_samples(), NamedSharding(mesh, P('data')))
        with jax.set_mesh(mesh):
            results.append(jax.jit(differentiate, compiler_options=EXACT)(placed, samples))
    (loss, gradients), (other_loss, other_gradients) = results
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    scale = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * scale),
        gradients,
        other_gradients,
    )
