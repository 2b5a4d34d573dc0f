"""Errors of a panoptic map, pixel by pixel."""

import enum

import numpy as np

from pdl_jax.systems.drawing.colors import index_labels
from pdl_jax.typing import LabelFormat


class PixelError(enum.IntEnum):
    """Kinds of pixels, by what the truth and the prediction say; each pixel has one.

    Attributes:
      VOID: the truth is void, so that nothing is wrong.
      CORRECT: the class is right, and for a thing the object.
      WRONG_INSTANCE: the class is right, but the pixel belongs to another object.
      WRONG_CLASS: a thing of another class for a thing, or stuff of another class for stuff.
      MISSED: stuff or void for a thing, or void for stuff.
      FALSE: a thing for stuff.
    """

    VOID = 0
    CORRECT = 1
    WRONG_INSTANCE = 2
    WRONG_CLASS = 3
    MISSED = 4
    FALSE = 5


# Okabe and Ito's colours, which all kinds of colour vision tell apart; correct pixels are not
# coloured over an image.
ERROR_COLORS = {
    PixelError.VOID: (0, 0, 0),
    PixelError.CORRECT: (190, 190, 190),
    PixelError.WRONG_INSTANCE: (204, 121, 167),
    PixelError.WRONG_CLASS: (213, 94, 0),
    PixelError.MISSED: (0, 114, 178),
    PixelError.FALSE: (240, 228, 66),
}


def find_errors(panoptic: np.ndarray, truth: np.ndarray, label_format: LabelFormat) -> np.ndarray:
    """Compares a panoptic map with the truth.

    Objects of a class are matched one to one, the pair with the highest IoU first, so that all
    pairs of the panoptic quality, whose IoU exceeds 0.5, are among them. Any object of its class
    is right for a crowd.

    Args:
      panoptic: i32[H, W], the prediction.
      truth: i32[H, W].
      label_format: the coding of classes and instances in both.

    Returns:
      u8[H, W], values of `PixelError`.

    Raises:
      ValueError: the shapes differ, or a map is no non-empty map of non-negative integers.
    """
    if panoptic.shape != truth.shape:
        raise ValueError(
            f'the prediction is {panoptic.shape} pixels and the truth {truth.shape}: they must '
            f'have one size'
        )
    found, found_index, found_areas = index_labels(panoptic)
    wanted, wanted_index, wanted_areas = index_labels(truth)
    # Every pixel of a pair of segments has the same kind.
    pair_index = wanted_index.astype(np.int64) * len(found) + found_index
    overlaps = np.bincount(pair_index.ravel(), minlength=len(wanted) * len(found))
    unions = wanted_areas[:, None] + found_areas - overlaps.reshape(len(wanted), -1)
    iou = overlaps.reshape(unions.shape) / unions
    kinds = _classify_pairs(found, wanted, iou, label_format)
    return kinds.ravel()[pair_index]


def error_picture(errors: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Colours errors by `ERROR_COLORS`.

    Args:
      errors: u8[H, W], values of `PixelError`.
      image: u8[H, W, 3], shown in grey where nothing is wrong.

    Returns:
      u8[H, W, 3].
    """
    table = np.array([ERROR_COLORS[kind] for kind in PixelError], np.uint8)
    picture = table[errors]
    if image is not None:
        right = errors == PixelError.CORRECT
        grey = 64 + image.mean(axis=-1) * 0.6
        picture[right] = grey[right, None].astype(np.uint8)
    return picture


def _classify_pairs(
    found: np.ndarray, wanted: np.ndarray, iou: np.ndarray, label_format: LabelFormat
) -> np.ndarray:
    """Returns u8[T, S], the kind of the pixels of each pair of a true and a predicted segment."""
    divisor = label_format.label_divisor
    found_class, wanted_class = found[None] // divisor, wanted[:, None] // divisor
    things = label_format.thing_classes
    is_found, is_wanted = np.isin(found_class, things), np.isin(wanted_class, things)
    is_unlabeled = found_class == label_format.ignore_label
    is_same = found_class == wanted_class
    is_object = (found[None] % divisor > 0) & (wanted[:, None] % divisor > 0)
    kinds = np.full(iou.shape, PixelError.WRONG_CLASS, np.uint8)
    kinds[is_found & ~is_wanted] = PixelError.FALSE
    kinds[is_unlabeled | (is_wanted & ~is_found)] = PixelError.MISSED
    kinds[is_same] = PixelError.CORRECT
    pairs = is_same & is_object & is_wanted
    kinds[pairs & ~_match(np.where(pairs, iou, 0))] = PixelError.WRONG_INSTANCE
    kinds[np.broadcast_to(wanted_class == label_format.ignore_label, iou.shape)] = PixelError.VOID
    return kinds


def _match(iou: np.ndarray) -> np.ndarray:
    """Matches rows and columns one to one, the highest value first; bool of the same shape."""
    matched = np.zeros(iou.shape, bool)
    is_free = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    rows, columns = np.nonzero(iou)
    # The sort is stable, so that ties go to the lower labels.
    order = np.argsort(-iou[rows, columns], kind='stable')
    for row, column in zip(rows[order], columns[order], strict=True):
        if is_free[0][row] and is_free[1][column]:
            is_free[0][row] = is_free[1][column] = False
            matched[row, column] = True
    return matched
