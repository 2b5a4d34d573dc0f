"""OpenVINO: model.xml and model.bin, made from the ONNX file.

Kernels are stored as the ONNX file has them. 'bfloat16' asks the processor to compute in it too, as
OpenVINO does unasked where the processor can; the precision is written into the file for loaders.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.prediction.export import onnx_file
from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram

NAME = 'model.xml'
IS_EXACT = IS_OPAQUE = False
# Place of the precision in the information of a model.
_PRECISION = ('pdl_jax', 'precision')


def write(program: ImageProgram, batch_size: int | None, folder: epath.Path, platform: str) -> None:
    """Writes the files.

    Raises:
      ImportError: onnx or openvino is not installed.
      ValueError: the system has an operation without a counterpart in ONNX.
    """
    openvino = _import_openvino()
    onnx_file.write(program, batch_size, folder, platform)
    source = folder / onnx_file.NAME
    # Not by `convert_model`, whose rewrites change the results of mask transformers.
    model = openvino.Core().read_model(str(source))
    model.set_rt_info('bf16' if program.dtype == 'bfloat16' else 'f32', list(_PRECISION))
    openvino.save_model(model, str(folder / NAME), compress_to_fp16=False)
    source.unlink()


def load(
    folder: epath.Path, precision: str | None = None
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads the files as a function of u8[B, H, W, C], see `program.OUTPUTS`.

    Args:
      folder: the folder of the files.
      precision: 'f32' or 'bf16'; None takes that of the files.

    Raises:
      ImportError: openvino is not installed.
    """
    core = _import_openvino().Core()
    model = core.read_model(str(folder / NAME))
    stored = model.get_rt_info(list(_PRECISION)).astype(str)
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': precision or stored})

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found: Any = compiled(images)
        return {name: np.array(found[name]) for name in OUTPUTS}

    return run


def _import_openvino() -> Any:
    try:
        import openvino  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('OpenVINO files need openvino: pip install "pdl_jax[export]"') from error
    return openvino
