"""The reward of a student: its accuracy, traded against its latency."""

import numpy as np
from numpy.typing import ArrayLike


def compute_reward(
    accuracy: ArrayLike, latency: ArrayLike, target: ArrayLike, exponent: ArrayLike = -0.07
) -> np.ndarray:
    """Computes accuracy * (latency / target) ** exponent.

    The same exponent counts on both sides of the target, the soft constraint of MnasNet: twice the
    latency is worth about 5 % of the accuracy at -0.07.

    Args:
      accuracy: in [0, 1]; after distillation in the search of AKD.
      latency: positive, in any unit.
      target: in the same unit.
      exponent: negative; 0 ignores the latency.

    Returns:
      f64, of the shape that the arguments broadcast to.

    Source: Tan et al., MnasNet, CVPR 2019, equation 2.
    """
    ratio = np.divide(latency, target, dtype=np.float64)
    return np.multiply(accuracy, np.power(ratio, exponent))
