"""Inference: the network alone, and with its post-processing."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.inputs import BLEND, HEADS
from benchmarks.ours.compiled import compile_program
from benchmarks.ours.postprocess import make_post_process
from benchmarks.ours.weights import load_weights
from benchmarks.program import Program, Setup
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.summary import add_up, summarize
from pdl_jax.presets import make_options
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLabOptions


def prepare(setup: Setup) -> Program:
    """Makes inference to maps at full resolution, or to panoptic labels if there is a scene."""
    arguments = setup.arguments
    size, batch = tuple(arguments['size']), arguments['batch']
    model = make_network(setup, size=size, num_classes=arguments['num_classes'])
    variables = jax.device_put(load_weights(setup, model))
    image = jax.device_put(setup.load('image'))
    scene = None
    if 'stride4_scene' in arguments['inputs']:
        scene = {key: jax.device_put(setup.load(key)) for key in HEADS}
        post_process = make_post_process(arguments, size=size, resize=model.options.resize)

    def infer(variables, image, scene):
        outputs = model.apply(variables, image, train=False)
        if scene is None:
            return model.upsample(outputs, size)
        # A scene replaces the outputs; a small share of them forces their computation.
        outputs = {key: scene[key] + BLEND * outputs[key] for key in HEADS}
        return post_process({**outputs, **model.upsample_instances(outputs, size)})

    return compile_program(
        infer, (variables, image, scene), flops=count_flops(model, size, batch), num_items=batch
    )


def make_network(setup: Setup, *, size: tuple[int, int], num_classes: int, **overrides) -> DeepLab:
    """Makes the network of a case, in bfloat16 on a GPU; `overrides` are fields of its options."""
    return DeepLab(
        num_classes,
        make_options(setup.arguments['preset'], **overrides),
        pool_crop=tuple(size),
        dtype=jnp.bfloat16 if setup.device == 'gpu' else jnp.float32,
    )


def make_system_options(
    setup: Setup, *, size: tuple[int, int], overrides: Mapping[str, Any] | None = None, **rules: Any
) -> PanopticDeepLabOptions:
    """Selects the system of a case.

    Args:
      setup: the case.
      size: (height, width) of the training crop in pixels.
      overrides: fields of the network's options.
      **rules: 'targets', 'loss', 'postprocess'.
    """
    return PanopticDeepLabOptions(
        tuple(size),
        'bfloat16' if setup.device == 'gpu' else 'float32',
        model=make_options(setup.arguments['preset'], **(overrides or {})),
        **rules,
    )


def count_flops(model: DeepLab, size: tuple[int, int], batch: int) -> float:
    """Counts two flops per multiply-add of the convolutions by definition, however implemented."""
    return 2.0 * batch * add_up(summarize(model, size)).multiply_adds
