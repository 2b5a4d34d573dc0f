"""The export to OpenVINO; `setup.mode` is its dtype, and 'bfloat16' computes in it."""

import openvino

from benchmarks.peers.exported import OUTPUTS, prepare_export
from benchmarks.program import Program, Setup


def prepare(setup: Setup) -> Program:
    """Makes inference."""
    precision = 'bf16' if setup.mode == 'bfloat16' else 'f32'

    def load(folder):
        model = openvino.Core().read_model(folder / 'model.xml')
        program = openvino.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': precision})

        def run(image):
            found = program(image)
            return {name: found[name] for name in OUTPUTS}

        return run

    return prepare_export(setup, 'openvino', load)
