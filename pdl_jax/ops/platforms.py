"""The choice among implementations: by the platform that a program is lowered for, or pinned.

A program that is traced once and lowered for any platform carries the implementations of all of
them until then, which takes time. Where the platform is known, or only shapes are asked for, one of
them is traced. An exported program carries one too: that of a platform, or the 'portable' one, made
of operations that other runtimes have too, without loops over blocks of an image, for batches and
images of symbolic size.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

from pdl_jax.typing import PyTree

PLATFORMS = ('cpu', 'tpu', 'cuda', 'rocm')
PORTABLE = 'portable'
_DEFAULT = 'default'

# Part of the key of JAX's caches, so that no trace of another platform is used again.
_pinned = jax.make_user_context(None)


@contextlib.contextmanager
def pin_platform(platform: str) -> Iterator[None]:
    """Makes everything that is traced inside use the implementations of one platform.

    Args:
      platform: one of `PLATFORMS`, or 'portable'.

    Raises:
      ValueError: there is no such platform.
    """
    if platform not in (*PLATFORMS, PORTABLE):
        raise ValueError(f'platform (={platform!r}) must be one of {[*PLATFORMS, PORTABLE]}')
    with _pinned(platform):
        yield


def pin_platform_of(arguments: PyTree) -> contextlib.AbstractContextManager[None]:
    """Pins the platform of the devices that arguments lie on, or shall lie on.

    Args:
      arguments: arrays, or ShapeDtypeStructs with shardings.
    """
    shardings = (getattr(leaf, 'sharding', None) for leaf in jax.tree.leaves(arguments))
    devices = (next(iter(s.device_set)) for s in shardings if s is not None)
    platform = next((device.platform for device in devices), jax.default_backend())
    return pin_platform(name_platform(platform))


def name_platform(backend: str) -> str:
    """Returns the one of `PLATFORMS` that a backend or device of JAX belongs to.

    JAX calls GPUs of both kinds 'gpu', and no implementation is for one kind alone.
    """
    return 'cuda' if backend == 'gpu' else backend


def eval_shape(function: Callable[..., Any], *arguments: Any) -> Any:
    """Computes the shapes and dtypes of what a function returns, as `jax.eval_shape` does.

    It traces one implementation, the default where none is pinned, which halves the time for
    networks of depthwise convolutions.
    """
    with _pinned(_pinned.value or _DEFAULT):
        return jax.eval_shape(function, *arguments)


def is_portable() -> bool:
    """Tells whether the portable implementations are pinned."""
    return _pinned.value == PORTABLE


def by_platform(
    *operands: Any,
    default: Callable[..., Any],
    portable: Callable[..., Any] | None = None,
    **implementations: Callable[..., Any],
) -> Any:
    """Runs an implementation on operands: of the pinned platform, else of the one lowered for.

    Args:
      *operands: arrays, or pytrees of them.
      default: for platforms without an implementation of their own.
      portable: for 'portable'; None takes the default.
      **implementations: by platform.

    Returns:
      The results of the implementation; all have the same shapes.
    """
    pinned = _pinned.value
    if pinned is None:
        return lax.platform_dependent(*operands, default=default, **implementations)
    if pinned == PORTABLE:
        return (portable or default)(*operands)
    return implementations.get(pinned, default)(*operands)
