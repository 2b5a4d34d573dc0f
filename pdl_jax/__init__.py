"""Panoptic-DeepLab in JAX and Flax: train, evaluate and predict on CPUs, GPUs and TPU pods.

    import pdl_jax

    predictor = pdl_jax.load('runs/coco')
    result = predictor(image)  # uint8[H, W, 3]

Importing the package imports neither JAX nor NumPy; `load` and `Predictor` are looked up on first
use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdl_jax.prediction.predictor import Predictor

    load = Predictor.load

__version__ = '0.2.0'
__all__ = ['Predictor', 'load']


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from pdl_jax.prediction.predictor import Predictor

    return Predictor if name == 'Predictor' else Predictor.load


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
