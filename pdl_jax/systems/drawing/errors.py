"""Errors of a panoptic map, pixel by pixel."""

import enum

import numpy as np

from pdl_jax.systems.drawing.colors import check_map
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
    for name, labels in (('panoptic', panoptic), ('truth', truth)):
        check_map(name, labels)
    flat_found, flat_wanted = panoptic.ravel(), truth.ravel()
    is_start = (flat_found[1:] != flat_found[:-1]) | (flat_wanted[1:] != flat_wanted[:-1])
    # There are far fewer runs of pixels with one pair of labels than pixels.
    starts = np.concatenate([[0], np.flatnonzero(is_start) + 1])
    lengths = np.diff(starts, append=flat_found.size)
    codes = flat_wanted[starts].astype(np.int64) << 32 | flat_found[starts]
    pairs, inverse = np.unique(codes, return_inverse=True)
    wanted, found = pairs >> 32, pairs & (2**32 - 1)
    overlaps = np.bincount(inverse, lengths)
    unions = _sum_by(wanted, overlaps) + _sum_by(found, overlaps) - overlaps
    kinds = _classify_pairs(found, wanted, overlaps / unions, label_format)
    return np.repeat(kinds[inverse], lengths).reshape(truth.shape)


def error_picture(errors: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    """Colours errors by `ERROR_COLORS`.

    Args:
      errors: u8[H, W], values of `PixelError`.
      image: u8[H, W, 3], shown in grey where nothing is wrong.

    Returns:
      u8[H, W, 3].
    """
    table = np.array([ERROR_COLORS[kind] for kind in PixelError], np.uint8)
    picture = np.take(table, errors, axis=0)
    if image is None:
        return picture
    # By rows, so that large pictures need little memory.
    for row, shown, kinds in zip(picture, image, errors, strict=True):
        right = kinds == PixelError.CORRECT
        row[right] = (64 + shown[right].sum(axis=1) // 5)[:, None]
    return picture


def _sum_by(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns for each pair the sum of the values of all pairs with its key."""
    _, inverse = np.unique(keys, return_inverse=True)
    return np.bincount(inverse, values)[inverse]


def _classify_pairs(
    found: np.ndarray, wanted: np.ndarray, iou: np.ndarray, label_format: LabelFormat
) -> np.ndarray:
    """Classifies the pixels of pairs of segments.

    Args:
      found: i64[P], labels of the prediction.
      wanted: i64[P], labels of the truth.
      iou: f64[P], overlap of the two.
      label_format: the coding of classes and instances.

    Returns:
      u8[P], values of `PixelError`.
    """
    divisor = label_format.label_divisor
    found_class, wanted_class = found // divisor, wanted // divisor
    things = label_format.thing_classes
    is_found, is_wanted = np.isin(found_class, things), np.isin(wanted_class, things)
    is_unlabeled = found_class == label_format.ignore_label
    is_same = found_class == wanted_class
    kinds = np.full(iou.shape, PixelError.WRONG_CLASS, np.uint8)
    kinds[is_found & ~is_wanted] = PixelError.FALSE
    kinds[is_unlabeled | (is_wanted & ~is_found)] = PixelError.MISSED
    kinds[is_same] = PixelError.CORRECT
    objects = np.flatnonzero(is_same & (found % divisor > 0) & (wanted % divisor > 0))
    kinds[objects] = PixelError.WRONG_INSTANCE
    taken = set()
    # The sort is stable, so that ties go to the lower labels.
    for pair in objects[np.argsort(-iou[objects], kind='stable')].tolist():
        sides = {('found', found[pair]), ('wanted', wanted[pair])}
        if not sides & taken:
            taken |= sides
            kinds[pair] = PixelError.CORRECT
    kinds[wanted_class == label_format.ignore_label] = PixelError.VOID
    return kinds
