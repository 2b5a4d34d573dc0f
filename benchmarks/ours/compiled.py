"""Jitted functions as programs."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.program import Program, Run


def to_arrays(results: Any) -> Any:
    """Converts to NumPy arrays, bfloat16 to float32 because .npz files cannot hold it."""
    return jax.tree.map(
        lambda x: np.asarray(x.astype('float32') if x.dtype == 'bfloat16' else x), results
    )


def compile_program(
    function: Callable[..., Any],
    inputs: tuple[Any, ...],
    *,
    flops: float | None = None,
    num_items: int = 1,
    get_outputs: Callable[[Any], dict[str, np.ndarray]] = to_arrays,
) -> Program:
    """Compiles a function and runs it once.

    Args:
      function: function to be jitted.
      inputs: its arguments, already on the device.
      flops: flops per run; see `Program`.
      num_items: images per run.
      get_outputs: converts the result of the function to NumPy arrays.
    """
    compiled, seconds, temp_bytes = compile_function(jax.jit(function), *inputs)
    run = Run(lambda: jax.block_until_ready(compiled(*inputs)))
    run()
    return Program(
        run,
        compile_seconds=seconds,
        argument_bytes=count_bytes(inputs),
        temp_bytes=temp_bytes,
        flops=flops,
        num_items=num_items,
        get_outputs=lambda: get_outputs(run.get_result()),
    )


def compile_function(function: Any, *inputs: Any) -> tuple[Any, float, int | None]:
    """Traces and compiles a jitted function.

    Returns:
      The compiled function, the seconds it took, and the bytes of temporary memory, None if the
      backend does not tell.
    """
    start = time.perf_counter()
    compiled = function.lower(*inputs).compile()
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    return compiled, seconds, None if analysis is None else analysis.temp_size_in_bytes


def count_bytes(arrays: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(arrays))
