"""The learned values of a class of objects, and defaults that hold without training."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pdl_jax.typing import Array


class ClassModel(NamedTuple):
    """Sizes, heights and weights of a class; arrays, so that one program serves every class.

    Attributes:
      templates_m: f32[T, 3], sizes (length, height, width) of boxes.
      height_mean_m, height_deviation_m: f32[], heights above the road of occupied voxels of
        objects.
      bottom_deviation_m: f32[], deviation of the objects' bottoms from the plane of the road.
      weights: f32[4], of the potentials in the order of `potentials.NAMES`; the score of a box is
        their product, which 3DOP's energy is the negative of.
    """

    templates_m: np.ndarray | Array
    height_mean_m: np.ndarray | Array
    height_deviation_m: np.ndarray | Array
    bottom_deviation_m: np.ndarray | Array
    weights: np.ndarray | Array


def make_class_model(
    templates_m: list[tuple[float, float, float]],
    height_m: tuple[float, float],
    bottom_deviation_m: float,
    weights: tuple[float, float, float, float],
) -> ClassModel:
    """Makes a model of numbers; height_m is (mean, deviation)."""
    mean, deviation, bottom = np.array([*height_m, bottom_deviation_m], np.float32)
    return ClassModel(
        templates_m=np.asarray(templates_m, np.float32),
        height_mean_m=np.asarray(mean),
        height_deviation_m=np.asarray(deviation),
        bottom_deviation_m=np.asarray(bottom),
        weights=np.asarray(weights, np.float32),
    )


# Set by hand so that both objects of generated scenes come first; not learned from KITTI.
_WEIGHTS = (5.0, 2.0, 1.0, 0.2)
# Templates are about the sizes of KITTI's objects: three of cars, one of the others, as in 3DOP.
DEFAULT_MODELS: Mapping[str, ClassModel] = {
    'Car': make_class_model(
        [(3.6, 1.5, 1.6), (4.0, 1.5, 1.6), (4.4, 1.6, 1.7)], (0.8, 0.4), 0.1, _WEIGHTS
    ),
    'Pedestrian': make_class_model([(0.8, 1.8, 0.6)], (0.9, 0.5), 0.1, _WEIGHTS),
    'Cyclist': make_class_model([(1.8, 1.7, 0.6)], (0.9, 0.5), 0.1, _WEIGHTS),
}
