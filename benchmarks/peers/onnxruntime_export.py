"""The export to ONNX in onnxruntime; `setup.mode` is its dtype."""

import onnxruntime

from benchmarks.peers.exported import OUTPUTS, prepare_export
from benchmarks.program import Program, Setup


def prepare(setup: Setup) -> Program:
    """Makes inference."""

    def load(folder):
        session = onnxruntime.InferenceSession(
            (folder / 'model.onnx').read_bytes(), providers=['CPUExecutionProvider']
        )
        return lambda image: dict(
            zip(OUTPUTS, session.run(list(OUTPUTS), {'image': image}), strict=True)
        )

    return prepare_export(setup, 'onnx', load)
