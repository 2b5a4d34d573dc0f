"""Disparity of a rectified pair by semi-global matching, with OpenCV (the extra `stereo`).

3DOP takes the disparity of Yamaguchi et al., ECCV 2014, which no package offers; semi-global
matching stands in for it.
"""

import importlib
from types import ModuleType

import numpy as np

# OpenCV returns disparities in sixteenths of a pixel.
_STEPS_PER_PX = 16
_BLOCK_PX = 5


def match_pair(left: np.ndarray, right: np.ndarray, *, max_disparity_px: int = 128) -> np.ndarray:
    """Matches the rows of two images.

    Args:
      left, right: u8[H, W, 3] of the same size, rectified.
      max_disparity_px: largest disparity; rounded up to a multiple of 16.

    Returns:
      f32[H, W], disparity of the left image in pixels; 0 where it is unknown.

    Raises:
      ValueError: the sizes differ, or the images are narrower than the largest disparity.
      ImportError: OpenCV is not installed.
    """
    if left.shape != right.shape:
        raise ValueError(
            f'the images of a pair must have one size, not {left.shape[:2]} and {right.shape[:2]}'
        )
    num_disparities = -(-max_disparity_px // 16) * 16
    if left.shape[1] <= num_disparities + _BLOCK_PX:
        raise ValueError(
            f'the images are {left.shape[1]} pixels wide, which leaves none to match at a largest '
            f'disparity of {num_disparities}: give larger images'
        )
    cv2 = import_opencv()
    penalty = left.shape[2] * _BLOCK_PX**2
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=num_disparities,
        blockSize=_BLOCK_PX,
        P1=8 * penalty,
        P2=32 * penalty,
        disp12MaxDiff=1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.StereoSGBM_MODE_SGBM_3WAY,
    )
    steps = matcher.compute(np.ascontiguousarray(left), np.ascontiguousarray(right))
    return np.maximum(steps, 0).astype(np.float32) / _STEPS_PER_PX


def import_opencv() -> ModuleType:
    """Imports OpenCV.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module('cv2')
    except ImportError as error:
        raise ImportError(
            "matching a pair needs OpenCV: pip install 'pdl_jax[stereo]', or opencv-python-headless"
        ) from error
