"""ONNX: one file for onnxruntime and the like; kernels in float32, bfloat16 or int8.

Kernels that are stored narrow are widened when a runtime loads the file, so it computes in float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

import pdl_jax
from pdl_jax.ops.platforms import PORTABLE, pin_platform
from pdl_jax.prediction.export.onnx_graph.graph import Graph, Node, Port
from pdl_jax.prediction.export.onnx_graph.program import make_graph
from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram, abstract_image

NAME = 'model.onnx'
IS_EXACT = IS_OPAQUE = False
# Read by onnxruntime from 1.15 and OpenVINO from 2023.1 on.
_OPSET = 18
_IR_VERSION = 9


def write(program: ImageProgram, batch_size: int | None, folder: epath.Path, platform: str) -> None:
    """Writes the file.

    Raises:
      ImportError: onnx is not installed.
      ValueError: the system has an operation without a counterpart in ONNX.
    """
    del platform
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('ONNX files need onnx: pip install "pdl_jax[export]"') from error
    image = abstract_image(program, batch_size)
    with pin_platform(PORTABLE):
        graph = make_graph(program, image, input_name='image', output_names=OUTPUTS)
    (folder / NAME).write_bytes(_serialize(graph))


def load(folder: epath.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads the file with onnxruntime as a function of u8[B, H, W, C], see `program.OUTPUTS`.

    Raises:
      ImportError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            'the comparison needs onnxruntime: pip install "pdl_jax[export]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        (folder / NAME).read_bytes(), options, providers=['CPUExecutionProvider']
    )

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found: Any = session.run(list(OUTPUTS), {'image': images})
        return dict(zip(OUTPUTS, found, strict=True))

    return run


def _serialize(graph: Graph) -> bytes:
    from onnx import helper  # pyright: ignore[reportMissingImports]

    model = helper.make_model(
        _make_proto(graph),
        producer_name='pdl_jax',
        producer_version=pdl_jax.__version__,
        opset_imports=[helper.make_opsetid('', _OPSET)],
        ir_version=_IR_VERSION,
    )
    return model.SerializeToString()


def _make_proto(graph: Graph) -> Any:
    from onnx import helper, numpy_helper  # pyright: ignore[reportMissingImports]

    def make_port(port: Port) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(port.dtype)
        return helper.make_tensor_value_info(port.name, kind, port.shape)

    def make_attribute(value: Any) -> Any:
        if isinstance(value, Graph):
            return _make_proto(value)
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    def make_node(node: Node) -> Any:
        attributes = {key: make_attribute(value) for key, value in node.attributes.items()}
        name = node.outputs[0]
        return helper.make_node(node.operation, node.inputs, node.outputs, name, **attributes)

    return helper.make_graph(
        [make_node(node) for node in graph.nodes],
        'pdl_jax',
        [make_port(port) for port in graph.inputs],
        [make_port(port) for port in graph.outputs],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
