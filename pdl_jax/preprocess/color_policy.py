"""AutoAugment's colour operations on uint8 images, and the policy of kMaX-DeepLab's recipes.

One of several pairs of operations is drawn, and each of the two is applied by its probability. A
level in [0, 10] is the strength of an operation.

Results are those of DeepLab2's TensorFlow program, byte for byte where its rounding is defined, and
the same on all platforms: everything is computed in integers but the blend of two images, whose
product is rounded before the sum however the compiler fuses them, and the sum of neighbours.

Source: DeepLab2's data/preprocessing/autoaugment_utils.py and autoaugment_policy.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.ops.segments import count_pairs, lookup
from pdl_jax.typing import Array

# (image u8[H, W, 3], size i32[2], argument) -> i32[H, W, 3] in [0, 255].
_Function = Callable[[Array, Array, Array], Array]


class Operation(NamedTuple):
    """A change of colours.

    Attributes:
      name: a name of `OPERATIONS`.
      probability: how often it is applied when its pair is drawn.
      level: its strength, in [0, 10].
    """

    name: str
    probability: float
    level: float


Policy = tuple[tuple[Operation, Operation], ...]

POLICIES: dict[str, Policy] = {
    'simple_classification': (
        (Operation('sharpness', 0.4, 7), Operation('brightness', 0.2, 10)),
        (Operation('equalize', 0.0, 9), Operation('contrast', 0.2, 10)),
        (Operation('sharpness', 0.2, 9), Operation('color', 0.2, 9)),
        (Operation('solarize', 0.2, 7), Operation('equalize', 0.6, 9)),
        (Operation('sharpness', 0.2, 1), Operation('equalize', 0.2, 7)),
    ),
}
_GREY_BITS = 22
# 0.2989 R + 0.587 G + 0.114 B of values in [0, 1], times 255.5, as TensorFlow rounds it to bytes.
_GREY_WEIGHTS = [round(w * 255.5 / 255 * 2**_GREY_BITS) for w in (0.2989, 0.587, 0.114)]


def apply_policy(
    key: Array, image: Array, size: Array, policy: Policy, *, magnitude: float = 1.0
) -> Array:
    """Draws a pair of operations and applies them.

    Args:
      key: a random key.
      image: u8[H, W, 3] on a canvas.
      size: i32[2], valid (height, width) in pixels, which statistics are taken over.
      policy: pairs, each as likely as the others.
      magnitude: factor of all levels; 0.2 in the recipes for Cityscapes.

    Returns:
      u8[H, W, 3].

    Raises:
      ValueError: the image is not RGB.
    """
    if image.shape[-1] != 3:
        raise ValueError(
            f'config.augment.color_policy needs RGB images, these have {image.shape[-1]} channels: '
            f"set it to ''"
        )
    pair_key, *keys = jax.random.split(key, 3)
    pair = jax.random.randint(pair_key, (), 0, len(policy))
    for key, operations in zip(keys, zip(*policy, strict=True), strict=True):
        draw = jax.random.uniform(key)
        changed = image
        # Under vmap every branch would run: each operation runs once, with the level of the pair.
        for name in dict.fromkeys(o.name for o in operations if o.probability):
            is_chosen = [o.name == name for o in operations]
            probabilities = [o.probability if o.name == name else 0.0 for o in operations]
            levels = [magnitude * o.level if o.name == name else 0.0 for o in operations]
            argument = jnp.asarray([find_argument(name, level) for level in levels])[pair]
            is_drawn = draw + jnp.array(probabilities)[pair] >= 1
            result = apply_operation(name, image, size, argument)
            changed = jnp.where(jnp.array(is_chosen)[pair] & is_drawn, result, changed)
        image = changed
    return image


def find_argument(name: str, level: float) -> np.generic:
    """Computes the argument of an operation from its level in [0, 10]; i32[] or f32[]."""
    if name == 'posterize':
        # A byte is shifted by 7 at most, so no bits at all leave the highest one.
        return np.int32(min(8 - int(level / 10 * 4), 7))
    if name == 'solarize':
        # 256 is 0 as a byte, and everything is inverted.
        return np.int32(int(level / 10 * 256) % 256)
    return np.float32(level / 10 * 1.8 + 0.1)


def apply_operation(name: str, image: Array, size: Array, argument: Array | np.ndarray) -> Array:
    """Applies one of `OPERATIONS`.

    Args:
      name: a key of it.
      image: u8[H, W, 3] on a canvas.
      size: i32[2], valid (height, width) in pixels.
      argument: f32[] or i32[], see `find_argument`.

    Returns:
      u8[H, W, 3].
    """
    return OPERATIONS[name](image.astype(jnp.int32), size, jnp.asarray(argument)).astype(jnp.uint8)


def _blend(image: Array, other: Array, factor: Array) -> Array:
    """Computes other + factor (image - other) in f32, truncated to whole numbers in [0, 255]."""
    mixed = other + _multiply(factor, image - other)
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def _multiply(factor: Array, x: Array) -> Array:
    """Rounds factor * x to f32 for integers |x| < 4096, even if the compiler fuses it with a sum.

    Both parts of the product are exact, so their sum is rounded once.
    """
    bits = lax.bitcast_convert_type(factor, jnp.uint32)
    high = lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFF000), jnp.float32)
    x = x.astype(jnp.float32)
    return high * x + (factor - high) * x


def _sharpen(image: Array, size: Array, factor: Array) -> Array:
    """Blends with a smoothed image, whose border of one pixel is that of the image."""
    padded = jnp.pad(image.astype(jnp.float32), ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    total = jnp.zeros(image.shape, jnp.float32)
    for i in range(3):
        for j in range(3):
            weight = np.float32(5 if i == j == 1 else 1) / np.float32(13)
            total = _add_product(total, weight, padded[i : i + height, j : j + width])
    inner = _mark_valid(image, size, border=1)[..., None]
    smooth = jnp.clip(total, 0, 255).astype(jnp.int32)
    return _blend(image, jnp.where(inner, smooth, image), factor)


def _add_product(total: Array, weight: np.float32, x: Array) -> Array:
    """Computes total + weight * x in f32 with one rounding, on all platforms.

    The original's convolution does so, in this order, and cuts: a total just below a whole number
    loses one. Halves of the weight have exact products with bytes, and the error of their sum with
    the total is exact too.
    """
    high = (weight.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
    product = high * x
    rounded = total + product
    part = rounded - total
    error = (total - (rounded - part)) + (product - part)
    return rounded + (error + (weight - high) * x)


def _change_brightness(image: Array, size: Array, factor: Array) -> Array:
    del size
    return _blend(image, jnp.zeros_like(image), factor)


def _change_contrast(image: Array, size: Array, factor: Array) -> Array:
    # The original divides the number of pixels by 256 where the mean grey level is meant.
    grey = jnp.minimum(size[0] * size[1] // 256, 255)
    return _blend(image, jnp.full_like(image, grey), factor)


def _change_saturation(image: Array, size: Array, factor: Array) -> Array:
    del size
    grey = jnp.sum(image * jnp.array(_GREY_WEIGHTS), axis=-1, keepdims=True) >> _GREY_BITS
    return _blend(image, jnp.broadcast_to(grey, image.shape), factor)


def _equalize(image: Array, size: Array, argument: Array) -> Array:
    """Spreads the histogram of each channel evenly, by Pillow's rule."""
    del argument
    valid = _mark_valid(image, size)
    values = jnp.arange(256)

    def equalize_channel(channel: Array) -> Array:
        rows = jnp.where(valid, 0, -1)
        counts = count_pairs(rows, channel, 1, 256)[0]
        highest = jnp.max(jnp.where(counts > 0, values, 0))
        step = jnp.sum(jnp.where(values < highest, counts, 0)) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
        return lookup(jnp.where(step > 0, table, values), channel)

    return jax.vmap(equalize_channel, in_axes=-1, out_axes=-1)(image)


def _stretch_contrast(image: Array, size: Array, argument: Array) -> Array:
    """Maps the lowest and the highest value of each channel to 0 and 255."""
    del argument
    valid = _mark_valid(image, size)[..., None]
    low = jnp.min(image, axis=(0, 1), where=valid, initial=255)
    high = jnp.max(image, axis=(0, 1), where=valid, initial=0)
    scale = 255 / jnp.maximum(high - low, 1).astype(jnp.float32)
    stretched = _multiply(scale, image) + _multiply(scale, -low)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255).astype(jnp.int32), image)


def _posterize(image: Array, size: Array, shift: Array) -> Array:
    del size
    return image >> shift << shift


def _solarize(image: Array, size: Array, threshold: Array) -> Array:
    del size
    return jnp.where(image < threshold, image, 255 - image)


def _invert(image: Array, size: Array, argument: Array) -> Array:
    del size, argument
    return 255 - image


def _mark_valid(image: Array, size: Array, border: int = 0) -> Array:
    """Marks the valid pixels that are at least `border` pixels inside; bool[H, W]."""
    rows, columns = jnp.arange(image.shape[0])[:, None], jnp.arange(image.shape[1])[None, :]
    far = (rows < size[0] - border) & (columns < size[1] - border)
    return far & (rows >= border) & (columns >= border)


OPERATIONS: dict[str, _Function] = {
    'autocontrast': _stretch_contrast,
    'brightness': _change_brightness,
    'color': _change_saturation,
    'contrast': _change_contrast,
    'equalize': _equalize,
    'invert': _invert,
    'posterize': _posterize,
    'sharpness': _sharpen,
    'solarize': _solarize,
}
