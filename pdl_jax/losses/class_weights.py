"""Weights of the classes in the semantic loss, given or from the frequencies of the classes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pdl_jax.typing import suggest

FROM_FREQUENCIES = 'from_frequencies'
# Pixels of each class, i64[C], and images that have the class, i64[C].
PixelCounts = tuple[np.ndarray, np.ndarray]


def check_class_weights(values: Any) -> None:
    """Checks the form of `config.loss.class_weights`; the classes are not known yet.

    Raises:
      ValueError: it is none of the three forms, or a weight is negative or not finite.
    """
    weights = [entry[1] if _is_pair(entry) else entry for entry in _to_entries(values)]
    if values == (FROM_FREQUENCIES,) or all(map(_is_weight, weights)):
        return
    raise ValueError(
        f'config.loss.class_weights (={values!r}) must hold a weight of at least 0 per class, '
        f"pairs such as ('car', 2.0) or (3, 2.0), or {FROM_FREQUENCIES!r} alone"
    )


def has_class_weights(values: Sequence[Any]) -> bool:
    """Tells if `values` are weights by class already."""
    return not any(_is_pair(value) or value == FROM_FREQUENCIES for value in values)


def resolve_class_weights(
    values: Sequence[Any], class_names: Sequence[str], count_pixels: Callable[[], PixelCounts]
) -> tuple[float, ...]:
    """Turns `config.loss.class_weights` into a weight per class.

    Args:
      values: weights by class; pairs of a class, by its name or index, and a weight, where all
        other classes weigh 1; or ('from_frequencies',).
      class_names: names by semantic class.
      count_pixels: counts the pixels of the classes; called only if they are asked for.

    Raises:
      ValueError: there is no such class, or not one weight per class.
    """
    where = f'config.loss.class_weights (={values!r})'
    num_classes = len(class_names)
    if tuple(values) == (FROM_FREQUENCIES,):
        return tuple(balance_classes(*count_pixels()).tolist())
    if has_class_weights(values):
        if len(values) != num_classes:
            raise ValueError(
                f'{where} has {len(values)} weights, the data {num_classes} classes '
                f'({", ".join(class_names[:3])}, ...): give one per class, or pairs such as '
                f'({class_names[0]!r}, 2.0)'
            )
        return tuple(map(float, values))
    weights = dict.fromkeys(range(num_classes), 1.0)
    for name, weight in values:
        if isinstance(name, str) and name in class_names:
            index = list(class_names).index(name)
        elif isinstance(name, int) and 0 <= name < num_classes:
            index = name
        else:
            hint = suggest(str(name), class_names)
            raise ValueError(
                f'{where}: the data have no class {name!r}; {hint}they have '
                f'{", ".join(class_names[:20])}, by index 0 .. {num_classes - 1}'
            )
        weights[index] = float(weight)
    return tuple(weights.values())


def balance_classes(pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Computes weights by median frequency balancing.

    The frequency f_c of a class is its pixels per image that has the class, and its weight is
    median(f) / f_c over the classes with pixels. A class without any has weight 1.

    Args:
      pixels: i64[C], pixels of each class.
      images: i64[C], images that have the class.

    Returns:
      f64[C].

    Source: Eigen and Fergus, ICCV 2015, section 6.3.2, who divide by the pixels of these images
    instead of their number: the same where all images are of one size.
    """
    is_present = pixels > 0
    weights = np.ones(len(pixels))
    frequency = pixels[is_present] / images[is_present]
    if len(frequency):
        weights[is_present] = np.median(frequency) / frequency
    return weights


def _to_entries(values: Any) -> Sequence[Any]:
    # A string, or anything without entries, is no weight.
    return values if isinstance(values, tuple) else (None,)


def _is_pair(entry: Any) -> bool:
    is_pair = isinstance(entry, tuple) and len(entry) == 2
    return is_pair and isinstance(entry[0], str | int) and not isinstance(entry[0], bool)


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0
