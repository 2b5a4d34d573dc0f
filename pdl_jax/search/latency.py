"""The latency of a student: counted, or measured on this device."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from pdl_jax.models.summary import add_up, summarize

# Runs that are timed; the median is not moved by a few interruptions.
_NUM_RUNS = 9


def count_multiply_adds(model: nn.Module, size: tuple[int, int], num_channels: int = 3) -> int:
    """Counts the multiply-adds of one image, as `pdl_jax summary` does.

    Args:
      model: maps f32[1, H, W, C] to outputs.
      size: (height, width) in pixels.
      num_channels: channels of the image.
    """
    return add_up(summarize(model, size, num_channels=num_channels)).multiply_adds


def measure_milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Measures the median time of a call, compiled and with its arguments on the device.

    Args:
      function: pure, to be jitted.
      *arguments: arrays, or pytrees of them.
    """
    compiled = jax.jit(function).lower(*arguments).compile()
    arguments = jax.block_until_ready(jax.device_put(arguments))
    times = []
    for _ in range(_NUM_RUNS + 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    # The first call allocates.
    return 1000 * float(np.median(times[1:]))
