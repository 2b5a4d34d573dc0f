"""TensorFlow's SavedModel: the StableHLO program as one operation of a graph of TensorFlow.

TensorFlow compiles it by XLA of its own, for the platform that it was exported for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.prediction.export.program import OUTPUTS, ImageProgram
from pdl_jax.prediction.export.stablehlo import export_program

NAME = 'saved_model'
IS_EXACT = False
IS_OPAQUE = True


def write(program: ImageProgram, batch_size: int | None, folder: epath.Path, platform: str) -> None:
    """Writes the folder, with the signature 'serving_default' of the argument 'image'.

    Raises:
      ImportError: tensorflow is not installed.
    """
    tf = _import_tensorflow()
    from tensorflow.compiler.tf2xla.python import xla  # pyright: ignore[reportMissingImports]

    exported = export_program(program, batch_size, platform)
    (operand,) = exported.in_avals
    signature = tf.TensorSpec(_list_sizes(operand), tf.uint8, 'image')

    @tf.function(input_signature=[signature], autograph=False)
    def call(image: Any) -> dict[str, Any]:
        results = xla.call_module(
            [image],
            version=exported.calling_convention_version,
            module=exported.mlir_module_serialized,
            Tout=[tf.dtypes.as_dtype(np.dtype(x.dtype)) for x in exported.out_avals],
            Sout=[tf.TensorShape(_list_sizes(x)) for x in exported.out_avals],
            platforms=[name.upper() for name in exported.platforms],
        )
        return dict(zip(OUTPUTS, results, strict=True))

    module = tf.Module()
    module.call = call
    tf.saved_model.save(module, str(folder / NAME), signatures={'serving_default': call})


def load(folder: epath.Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads the folder as a function of u8[B, H, W, C], see `program.OUTPUTS`.

    Raises:
      ImportError: tensorflow is not installed.
    """
    tf = _import_tensorflow()
    loaded = tf.saved_model.load(str(folder / NAME))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = loaded.signatures['serving_default'](image=tf.constant(images))
        return {name: found[name].numpy() for name in OUTPUTS}

    # Signatures live as long as what was loaded.
    run.loaded = loaded  # pyright: ignore[reportFunctionMemberAccess]
    return run


def _list_sizes(aval: Any) -> list[int | None]:
    return [n if isinstance(n, int) else None for n in aval.shape]


def _import_tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            'a SavedModel needs TensorFlow: pip install "pdl_jax[tensorflow]"'
        ) from error
    # JAX has the accelerators.
    tf.config.set_visible_devices([], 'GPU')
    return tf
