"""Versions, memory and speed of matrix products of the frameworks."""

import importlib
import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

from pdl_jax.runtime.host_memory import keep_freed_memory

_NUM_PRODUCTS = 5


class Jax:
    """JAX on a device."""

    def __init__(self, device: str):
        import jax

        if device == 'cpu':
            # The commands of pdl_jax do the same.
            keep_freed_memory()
        self._jax = jax
        self._device = jax.local_devices(backend=device)[0]
        jax.numpy.zeros(1).block_until_ready()
        self._is_gpu = device == 'gpu'

    def describe(self) -> dict[str, Any]:
        versions = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')}
        return {'versions': versions, 'device_kind': self._device.device_kind}

    def measure_products(self, dtype: str, size: int) -> float:
        """Measures the flops per second of square matrix products, the best of a few."""
        jnp = self._jax.numpy
        x = self._jax.random.normal(self._jax.random.key(0), (size, size), jnp.dtype(dtype))
        multiply = self._jax.jit(jnp.matmul)
        return _measure(lambda: multiply(x, x).block_until_ready(), size)

    def read_peak_bytes(self) -> int | None:
        """Reads the peak memory of a GPU; None on a CPU, where the memory of the process counts."""
        return self._device.memory_stats()['peak_bytes_in_use'] if self._is_gpu else None


class Torch:
    """PyTorch on a device."""

    def __init__(self, device: str):
        import torch

        self._torch = torch
        self._device = 'cuda' if device == 'gpu' else 'cpu'
        torch.zeros(1, device=self._device)
        if device == 'gpu':
            # XLA uses TF32 for float32 by default, and it tunes convolutions for their sizes.
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True

    def describe(self) -> dict[str, Any]:
        is_gpu = self._device == 'cuda'
        kind = (
            self._torch.cuda.get_device_name()
            if is_gpu
            else self._torch.backends.cpu.get_cpu_capability()
        )
        return {'versions': {'torch': self._torch.__version__}, 'device_kind': kind}

    def measure_products(self, dtype: str, size: int) -> float:
        x = self._torch.randn(size, size, device=self._device).to(getattr(self._torch, dtype))

        def multiply():
            x @ x
            if self._device == 'cuda':
                self._torch.cuda.synchronize()

        return _measure(multiply, size)

    def read_peak_bytes(self) -> int | None:
        return self._torch.cuda.max_memory_allocated() if self._device == 'cuda' else None


class TensorFlow:
    """TensorFlow on a device."""

    def __init__(self, device: str):
        import tensorflow as tf

        self._tf = tf
        if device == 'cpu':
            tf.config.set_visible_devices([], 'GPU')
        tf.zeros(1).numpy()

    def describe(self) -> dict[str, Any]:
        return {'versions': {'tensorflow': self._tf.__version__}}

    def measure_products(self, dtype: str, size: int) -> float:
        x = self._tf.cast(self._tf.random.normal([size, size]), dtype)
        return _measure(lambda: self._tf.linalg.matmul(x, x).numpy(), size)

    def read_peak_bytes(self) -> None:
        return None


class Runtime:
    """A runtime of exports."""

    def __init__(self, name: str):
        self._name = name
        importlib.import_module(name)

    def describe(self) -> dict[str, Any]:
        return {'versions': {self._name: importlib.metadata.version(self._name)}}

    def read_peak_bytes(self) -> None:
        return None


class NumPy:
    """Programs without a framework."""

    def describe(self) -> dict[str, Any]:
        return {
            'versions': {name: importlib.metadata.version(name) for name in ('numpy', 'pillow')}
        }

    def read_peak_bytes(self) -> None:
        return None


def start(side: str, device: str) -> Jax | Torch | TensorFlow | Runtime | NumPy:
    """Loads and initialises a framework, so that its own needs do not count towards a program."""
    if side == 'numpy':
        return NumPy()
    if side in ('onnxruntime', 'openvino'):
        return Runtime(side)
    return {'ours': Jax, 'torch': Torch, 'tensorflow': TensorFlow}[side](device)


def _measure(multiply: Callable[[], None], size: int) -> float:
    multiply()
    best = float('inf')
    for _ in range(_NUM_PRODUCTS):
        start_time = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start_time)
    return 2 * size**3 / best
