"""OpenVINO: model.xml and model.bin, made from the ONNX file.

Kernels are stored as the ONNX file has them. 'bfloat16' asks the processor to compute in it too, as
OpenVINO does unasked where the processor can; the precision is written into the file for loaders.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.ops.resize import find_neighbours
from pdl_jax.prediction.export import onnx_file
from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram

NAME = 'model.xml'
IS_EXACT = IS_OPAQUE = False
# Place of the precision in the information of a model.
_PRECISION = ('pdl_jax', 'precision')
_PRODUCTS = ('Convolution', 'GroupConvolution', 'MatMul')
# Modes of `ops.resize` by those of Interpolate.
_MODES = {'align_corners': 'corner_aligned', 'half_pixel': 'half_pixel'}


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
    if program.dtype == 'bfloat16':
        _blend_outputs(model)
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


def _blend_outputs(model: Any) -> None:
    """Resizes the outputs of the network by gathers and sums.

    Computing in bfloat16, OpenVINO keeps in float32 what follows the last convolution, product or
    interpolation: these would round offsets to whole pixels. Sizes that a call decides are left as
    they are.
    """
    for node in _list_last(model):
        source, target = node.input_value(0), node.output(0)
        before, after = source.get_partial_shape(), target.get_partial_shape()
        mode = _MODES.get(node.get_attributes()['coordinate_transformation_mode'])
        if mode is None or any(before[i].is_dynamic or after[i].is_dynamic for i in (2, 3)):
            continue
        blended = source
        for axis in (2, 3):
            sizes = before[axis].get_length(), after[axis].get_length()
            blended = _blend(blended, axis, *sizes, mode)
        target.replace(blended)
    model.validate_nodes_and_infer_types()


def _list_last(model: Any) -> list[Any]:
    """Lists the interpolations that no convolution or product follows."""
    waiting = [node for node in model.get_ordered_ops() if node.get_type_name() == 'Result']
    seen, found = set(), []
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen or node.get_type_name() in _PRODUCTS:
            continue
        seen.add(node.get_friendly_name())
        if node.get_type_name() == 'Interpolate':
            found.append(node)
        waiting += [value.get_source_output().get_node() for value in node.inputs()]
    return found


def _blend(x: Any, axis: int, in_size: int, out_size: int, mode: str) -> Any:
    ops = importlib.import_module('openvino.opset13')
    low, high, fraction = find_neighbours(in_size, out_size, mode)
    place = ops.constant(np.int64(axis))
    below, above = (ops.gather(x, ops.constant(i.astype(np.int32)), place) for i in (low, high))
    shape = [1, 1, 1, 1]
    shape[axis] = out_size
    weight = ops.constant(fraction.astype(np.float32).reshape(shape))
    return ops.add(below, ops.multiply(ops.subtract(above, below), weight)).output(0)


def _import_openvino() -> Any:
    try:
        import openvino  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('OpenVINO files need openvino: pip install "pdl_jax[export]"') from error
    return openvino
