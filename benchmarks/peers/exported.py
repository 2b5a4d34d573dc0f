"""Exports of our program in the runtimes that they are for, without JAX in their processes."""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.program import Program, Run, Setup

OUTPUTS = ('panoptic', 'segment_score')


def prepare_export(
    setup: Setup, form: str, load: Callable[[pathlib.Path], Callable[[np.ndarray], Any]]
) -> Program:
    """Writes the program of a case in a format, by a process of its own, and loads it.

    Args:
      setup: the case; its mode is the dtype of the export.
      form: 'onnx' or 'openvino'.
      load: makes the function of u8[B, H, W, 3] from the folder of the export; it returns arrays
        by name.
    """
    image = np.clip((setup.load('image') + 1) * 127.5, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        words = [form, folder, setup.mode, json.dumps(setup.arguments), json.dumps(setup.files)]
        subprocess.run([sys.executable, '-m', 'benchmarks.ours.export', *words], check=True)
        function = load(pathlib.Path(folder))
    run = Run(lambda: function(image))
    run()

    def get_outputs() -> Mapping[str, np.ndarray]:
        found = run.get_result()
        return {name: np.asarray(found[name]) for name in OUTPUTS}

    return Program(run, num_items=setup.arguments['batch'], get_outputs=lambda: dict(get_outputs()))
