"""Blocks of bilinearly upsampled logits, in the implementation and the size of each platform."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.platforms import by_platform
from pdl_jax.ops.resize import interpolation_matrix
from pdl_jax.typing import Array, PyTree

# A block fits in a core's cache or in on-chip TPU memory; a GPU launches several kernels a block.
_PIXELS_PER_BLOCK = 2**15
_PIXELS_PER_GPU_BLOCK = 2**19


def run_blocks(
    fold: Callable[..., PyTree],
    work: Callable[..., PyTree],
    cpu_function: Callable[..., Any],
    function: Callable[..., Any],
    logits: Array,
    maps: tuple[PyTree, ...],
    size: tuple[int, int],
    mode: str,
    *,
    gpu_function: Callable[..., Any] | None = None,
) -> PyTree:
    """Runs work(function of the platform, ...) on all blocks of upsampled logits.

    Args:
      fold: `map_row_blocks` or `add_row_blocks`.
      work: its `work`, with the function of the platform before the other arguments.
      cpu_function: for CPU.
      function: for TPU, and for GPU unless that has one of its own.
      logits: f32[B, h, w, C].
      maps: see `map_row_blocks`.
      size: (height, width) to upsample to, in pixels.
      mode: see `resize.resize_bilinear`.
      gpu_function: for GPU.
    """

    def run(function: Callable[..., Any], pixels_per_block: int) -> Callable[..., PyTree]:
        work_block = functools.partial(work, function)
        return lambda x, maps: fold(
            work_block, x, maps, size=size, mode=mode, pixels_per_block=pixels_per_block
        )

    return by_platform(
        logits,
        maps,
        cpu=run(cpu_function, _PIXELS_PER_BLOCK),
        tpu=run(function, _PIXELS_PER_BLOCK),
        default=run(gpu_function or function, _PIXELS_PER_GPU_BLOCK),
    )


def weigh_window(window: Array, weights: Array, width: int, mode: str) -> Array:
    """Upsamples a window f32[B, k, w, C] to f32[B, C, R, width]."""
    columns = interpolation_matrix(window.shape[2], width, mode)
    window = jnp.einsum('bkwc,vw->bckv', window, columns, precision=lax.Precision.HIGHEST)
    # A sum, because a matrix product with so few terms would leave the MXU of a TPU mostly idle.
    terms = (weights[:, i, None] * window[:, :, i, None] for i in range(weights.shape[1]))
    return cast(Array, sum(terms))


def match_labels(labels: Array, first: Array | int, count: int) -> Array:
    """Compares i32[B, R, W] with `count` classes from `first` on: bool[B, count, R, W]."""
    return labels[:, None] == (first + jnp.arange(count))[:, None, None]
