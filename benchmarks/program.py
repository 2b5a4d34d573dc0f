"""Programs to be timed, and what they are prepared from."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Setup:
    """Arguments of a side's `prepare`.

    Attributes:
      arguments: arguments of the case.
      files: paths of the case's inputs by name; arrays are .npy files.
      mode: variant of the side's program; '' if it has only one.
      device: 'cpu' or 'gpu'.
    """

    arguments: Mapping[str, Any]
    files: Mapping[str, str]
    mode: str
    device: str

    def load(self, name: str) -> np.ndarray:
        """Reads one of the inputs."""
        return np.load(self.files[name])


class Run:
    """A function with its last result, which is freed before the next call."""

    def __init__(self, function: Callable[[], Any]):
        self._function = function
        self._results = []

    def __call__(self) -> None:
        self._results.clear()
        self._results.append(self._function())

    def get_result(self) -> Any:
        """Returns the last result; calls the function if there is none."""
        if not self._results:
            self()
        return self._results[0]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to be timed, already compiled and run once.

    Attributes:
      run: runs the program until its results are complete on the device.
      compile_seconds: time of tracing and compiling, or excess of the first run over the second.
      argument_bytes: bytes of its inputs and weights.
      temp_bytes: temporary memory by the compiler's analysis; None if unknown.
      flops: flops per run, counted from the definition and so equal for all programs of a case;
        None if they do not measure the work.
      num_items: images per run.
      get_outputs: returns the results as NumPy arrays, to compare with the other side.
      open: returns a context for the runs that is not timed, such as worker processes.
      get_facts: returns further measurements of the runs, by name.
    """

    run: Callable[[], Any]
    compile_seconds: float = 0.0
    argument_bytes: int = 0
    temp_bytes: int | None = None
    flops: float | None = None
    num_items: int = 1
    get_outputs: Callable[[], dict[str, np.ndarray]] = dict
    open: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    get_facts: Callable[[], dict[str, float]] = dict
