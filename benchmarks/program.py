"""What a side of a comparison hands to the harness."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a program is prepared from.

    Attributes:
      arguments: of the case.
      files: of the case's inputs by name; arrays are .npy files.
      mode: which of the side's programs is meant; '' where it has one.
      device: 'cpu' or 'gpu'.
    """

    arguments: Mapping[str, Any]
    files: Mapping[str, str]
    mode: str
    device: str

    def load(self, name: str) -> np.ndarray:
        """One of the inputs."""
        return np.load(self.files[name])


class Run:
    """Calls a function and keeps its last result, though never two at a time."""

    def __init__(self, function: Callable[[], Any]):
        self._function = function
        self._results = []

    def __call__(self) -> None:
        self._results.clear()
        self._results.append(self._function())

    def get_result(self) -> Any:
        """What the last call gave; calls where there was none."""
        if not self._results:
            self()
        return self._results[0]


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to be timed; it has been compiled and run once.

    Attributes:
      run: runs it to its end, results on the device included.
      compile_seconds: tracing and compiling, or what a first run took beyond a second.
      argument_bytes: of its inputs and weights.
      temp_bytes: what the compiler says that it needs beside arguments and results; None where it does not say.
      flops: of one run, counted from the definition, so that all programs of a case are told the same; None where they are no
        measure of the work.
      num_items: images that one run works on.
      get_outputs: results as NumPy arrays, for comparing them with those of the other side.
      open: enters what runs need but what is not timed, such as worker processes; left when a side's turn is over.
      get_facts: what it found out about its runs beside their time.
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
