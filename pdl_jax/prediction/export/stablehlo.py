"""StableHLO as `jax.export` serialises it: one file, for one platform, that needs JAX only."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from pdl_jax.ops.platforms import pin_platform
from pdl_jax.prediction.export.program import (
    OUTPUTS,
    ImageProgram,
    abstract_image,
    map_images,
)

NAME = 'model.stablehlo'
IS_EXACT = IS_OPAQUE = True


def export_program(
    program: ImageProgram, batch_size: int | None, platform: str
) -> jax.export.Exported:
    """Lowers a program for a platform, with the implementations of that platform only.

    Args:
      program: to be lowered.
      batch_size: number of images; None for any, which are computed one after the other.
      platform: one of `ops.platforms.PLATFORMS`.

    Raises:
      ImportError: an extra is not installed.
    """
    function: Any = program if batch_size is not None else map_images(program)
    with pin_platform(platform):
        export = jax.export.export(jax.jit(function), platforms=[platform])
        return export(abstract_image(program, batch_size))


def write(program: ImageProgram, batch_size: int | None, folder: epath.Path, platform: str) -> None:
    """Writes the file.

    Raises:
      ImportError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            'StableHLO files need flatbuffers: pip install "pdl_jax[export]"'
        ) from error
    exported = export_program(program, batch_size, platform)
    (folder / NAME).write_bytes(bytes(exported.serialize()))


def load(folder: epath.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads the file as a function of u8[B, H, W, C], see `program.OUTPUTS`."""
    call = jax.jit(jax.export.deserialize(bytearray((folder / NAME).read_bytes())).call)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(OUTPUTS, jax.device_get(call(images)), strict=True))

    return run
