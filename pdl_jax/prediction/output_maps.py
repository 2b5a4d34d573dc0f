"""Outputs of the network itself, for people to look at."""

from collections.abc import Callable

import jax
import numpy as np

from pdl_jax.prediction.inference import Inference
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array

OutputMaps = Callable[[Variables, Array, Array], dict[str, np.ndarray]]


def make_output_maps(inference: Inference) -> OutputMaps:
    """Makes the function from a canvas to the maps of its image that the network has.

    Returns:
      A function of variables, u8[1, H, W, C] and its image's i32[1, 2] (height, width) in pixels
      that returns 'center' f32[h, w], 'offset' f32[h, w, 2] in pixels, and 'ponder' f32[h, w] of an
      adaptive network, at the size that the network saw the image. It raises a ValueError if the
      network has none.
    """
    system = inference.system

    def compute(variables: Variables, image: Array, size: Array) -> dict[str, Array]:
        outputs = inference.outputs(variables, image, size)
        found = {}
        if 'center' in outputs:
            found = {'center': outputs['center'][0, ..., 0], 'offset': outputs['offset'][0]}
        if inference.is_adaptive:
            images, _ = inference.prepare(image, size)
            found['ponder'] = system.measure_computation(variables, images).ponder[0]
        if not found:
            raise ValueError('this network has no centres and offsets to draw')
        return {**found, 'size': jax.vmap(inference.resized)(size)[0]}

    program = jax.jit(compute)

    def read(variables: Variables, image: Array, size: Array) -> dict[str, np.ndarray]:
        maps = jax.device_get(program(variables, image, size))
        height, width = maps.pop('size')
        return {name: x[:height, :width].astype(np.float32) for name, x in maps.items()}

    return read
