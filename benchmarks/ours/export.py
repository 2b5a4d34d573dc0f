"""Inference as it is exported: u8 images in, panoptic maps and tables of segments out.

    python -m benchmarks.ours.export onnx folder float32 arguments.json files.json

writes the same program in another format, for the peers.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.inputs import BLEND, HEADS
from benchmarks.ours.compiled import compile_program
from benchmarks.ours.model import count_flops, make_network, make_system_options
from benchmarks.ours.postprocess import POSTPROCESS, make_label_format
from benchmarks.ours.weights import load_weights
from benchmarks.program import Program, Setup
from pdl_jax.experiment import EvaluateOptions
from pdl_jax.prediction.export import onnx_file, openvino_files
from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram
from pdl_jax.prediction.export.weights import restore_variables, store_variables
from pdl_jax.prediction.inference import Inference
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab
from pdl_jax.systems.system import Outputs, Variables

_FORMATS = {'onnx': onnx_file, 'openvino': openvino_files}


@dataclasses.dataclass(frozen=True, eq=False)
class SceneSystem(PanopticDeepLab):
    """A system whose outputs are a scene; a small share of its own forces their computation."""

    scene: Any = None

    def outputs(self, variables: Variables, images: Any) -> Outputs:
        found = super().outputs(variables, images)
        return {key: self.scene[key] + BLEND * found[key] for key in HEADS}


def prepare(setup: Setup) -> Program:
    """Makes the program of the predictor."""
    program = make_program(setup, 'float32')

    def infer(variables, image):
        found = dataclasses.replace(program, stored=variables)(image)
        return dict(zip(OUTPUTS, found, strict=True))

    variables = jax.device_put(restore_variables(program.stored))
    image = jax.device_put(draw_image(setup))
    size, batch = tuple(setup.arguments['size']), setup.arguments['batch']
    model = make_network(setup, size=size, num_classes=setup.arguments['num_classes'])
    flops = count_flops(model, size, batch)
    return compile_program(infer, (variables, image), flops=flops, num_items=batch)


def make_program(setup: Setup, dtype: str) -> ImageProgram:
    """Makes the function of images."""
    arguments = setup.arguments
    size = tuple(arguments['size'])
    options = make_system_options(setup, size=size, postprocess=POSTPROCESS)
    scene = {key: setup.load(key) for key in HEADS}
    system = SceneSystem(make_label_format(arguments['num_classes']), options, scene=scene)
    variables = jax.device_get(load_weights(setup, system.network))
    augment = AugmentOptions(size, normalization=options.normalization)
    inference = Inference.for_images(system, augment, EvaluateOptions(), size)
    stored = store_variables(variables, dtype)
    return ImageProgram(inference, stored, inference.input_size, size, 3, dtype)


def draw_image(setup: Setup) -> np.ndarray:
    """Makes u8[B, H, W, 3] of the drawn image."""
    image = setup.load('image')
    return np.clip((image + 1) * 127.5, 0, 255).astype(np.uint8)


def main() -> None:
    """Writes the program for a peer."""
    form, folder, dtype, arguments, files = sys.argv[1:]
    setup = Setup(json.loads(arguments), json.loads(files), '', 'cpu')
    program = make_program(setup, dtype)
    _FORMATS[form].write(program, setup.arguments['batch'], epath.Path(folder), 'cpu')


if __name__ == '__main__':
    main()
