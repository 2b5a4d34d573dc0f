"""PyTorch functions as programs."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.program import Program, Run, Setup


def find_device(setup: Setup) -> str:
    return 'cuda' if setup.device == 'gpu' else 'cpu'


def make_program(
    function: Callable[[], Any],
    *,
    arguments: Any,
    device: str,
    get_outputs: Callable[[Any], dict[str, np.ndarray]],
    warm_up: Callable[[], Any] | None = None,
    num_items: int = 1,
) -> Program:
    """Runs a function twice to warm up and makes a program of it.

    Args:
      function: function to be timed.
      arguments: nested tensors to report as its arguments.
      device: 'cpu' or 'cuda'.
      get_outputs: converts the result of `function` to NumPy arrays.
      warm_up: replacement of `function` for the two runs.
      num_items: images per run.

    Returns:
      The program; `compile_seconds` is the excess of the first run over the second.
    """

    def run_to_end():
        outputs = function()
        if device == 'cuda':
            torch.cuda.synchronize()
        return outputs

    run = Run(run_to_end)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        (warm_up or run)()
        seconds.append(time.perf_counter() - start)
    return Program(
        run,
        compile_seconds=max(seconds[0] - seconds[1], 0.0),
        argument_bytes=count_bytes(arguments),
        num_items=num_items,
        get_outputs=lambda: get_outputs(run.get_result()),
    )


def count_bytes(arguments: Any) -> int:
    if isinstance(arguments, torch.Tensor):
        return arguments.numel() * arguments.element_size()
    values = arguments.values() if isinstance(arguments, Mapping) else arguments
    return sum(count_bytes(value) for value in values)
