"""Measurements of backbones, and variables that can be loaded into any implementation."""

import dataclasses
import zlib
from collections.abc import Callable

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.models.blocks import Conv


def make_shapes(module: nn.Module, size: tuple[int, int] = (33, 33)) -> dict:
    """Returns the shapes of the variables, without computing any."""
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)
    )


@dataclasses.dataclass(frozen=True)
class Traced:
    """Size and cost of a backbone on one image.

    Attributes:
      parameters: number of trainable values.
      multiply_adds: multiply-adds of all convolutions.
      shapes: [h, w, C] of the features.
    """

    parameters: int
    multiply_adds: int
    shapes: dict[str, tuple[int, ...]]


def trace(module: nn.Module, size: tuple[int, int]) -> Traced:
    """Counts parameters and multiply-adds without computing."""
    multiply_adds = 0

    def count(next_method, args, kwargs, context):
        nonlocal multiply_adds
        x = next_method(*args, **kwargs)
        if isinstance(context.module, Conv) and context.method_name == '__call__':
            kernel = context.module.variables['params']['kernel']
            multiply_adds += x.shape[1] * x.shape[2] * kernel.size
        return x

    def run():
        with nn.intercept_methods(count):
            return module.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False)

    features, variables = jax.eval_shape(run)
    parameters = sum(x.size for x in jax.tree.leaves(variables['params']))
    return Traced(
        parameters, multiply_adds, {key: value.shape[1:] for key, value in features.items()}
    )


def make_variables(shapes: dict) -> dict:
    """Draws variables that depend only on names and shapes, so that originals can get the same."""

    def draw(path, shape):
        generator = np.random.default_rng(zlib.crc32('/'.join(path).encode()))
        if path[-1] in ('scale', 'var'):
            return generator.uniform(0.5, 1.5, shape).astype(np.float32)
        if path[-1] == 'kernel':
            return (generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))).astype(
                np.float32
            )
        return (generator.standard_normal(shape) * 0.1).astype(np.float32)

    flat = flax.traverse_util.flatten_dict(shapes)
    return flax.traverse_util.unflatten_dict(
        {path: draw(path, x.shape) for path, x in flat.items()}
    )


def make_image(height: int, width: int) -> jax.Array:
    """Draws noise as a batch of one, f32[1, height, width, 3]."""
    return jnp.asarray(np.random.default_rng(0).standard_normal((1, height, width, 3)), jnp.float32)


def run(module: nn.Module, image: jax.Array) -> dict[str, jax.Array]:
    """Computes features with the variables of `make_variables`."""
    variables = make_variables(make_shapes(module))
    return jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, image)


def check_atrous_consistency(
    make_module: Callable[..., nn.Module], output_strides: tuple[int, ...]
) -> None:
    """Checks that with the same weights a smaller output stride only gives more features.

    Args:
      make_module: function of `output_stride`.
      output_strides: output strides to compare, the largest last.
    """
    image = make_image(65, 65)
    *dense_strides, coarse_stride = output_strides
    coarse = run(make_module(output_stride=coarse_stride), image)
    scale = float(jnp.max(jnp.abs(coarse['last'])))
    assert scale > 1e-3
    for stride in dense_strides:
        dense = run(make_module(output_stride=stride), image)
        for key in set(dense) - {'last'}:
            np.testing.assert_allclose(dense[key], coarse[key], atol=1e-5)
        step = coarse_stride // stride
        np.testing.assert_allclose(
            dense['last'][:, ::step, ::step], coarse['last'], atol=1e-5 * scale
        )
