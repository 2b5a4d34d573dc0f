"""Outputs of the network itself, for people to look at."""

from collections.abc import Callable

import jax
import numpy as np

from pdl_jax.prediction.inference import Inference
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array

_NAMES = ('center', 'offset')
OutputMaps = Callable[[Variables, Array, Array], dict[str, np.ndarray]]


def make_output_maps(inference: Inference) -> OutputMaps:
    """Makes the function from a canvas to the centres and offsets of its image.

    Returns:
      A function of variables, u8[1, H, W, C] and its image's i32[1, 2] (height, width) in pixels
      that returns 'center' f32[h, w] and 'offset' f32[h, w, 2] in pixels, at the size that the
      network saw the image. It raises a ValueError if the network has none.
    """

    def compute(variables: Variables, image: Array, size: Array) -> dict[str, Array]:
        outputs = inference.outputs(variables, image, size)
        if not all(name in outputs for name in _NAMES):
            raise ValueError('this network has no centres and offsets to draw')
        found = {name: outputs[name][0] for name in _NAMES}
        return {**found, 'size': jax.vmap(inference.resized)(size)[0]}

    program = jax.jit(compute)

    def read(variables: Variables, image: Array, size: Array) -> dict[str, np.ndarray]:
        maps = jax.device_get(program(variables, image, size))
        height, width = maps['size']
        return {
            'center': maps['center'][:height, :width, 0].astype(np.float32),
            'offset': maps['offset'][:height, :width].astype(np.float32),
        }

    return read
