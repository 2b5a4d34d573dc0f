"""Random colours, blur and noise of an image, in the range of its uint8 values.

They come before normalisation and resampling, so that statistics and widths are those of the image.
Values stay float32 and are limited to [0, 255] after each step, never rounded to integers; only the
operations of `color_policy`, which come first, are defined on bytes.
"""

import math

import jax
import jax.numpy as jnp

from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.color_policy import POLICIES, apply_policy
from pdl_jax.typing import Array

# `fold_in` of a sample's key by this; `augment` has the draws before it.
_PHOTOMETRIC_DRAW = 6
_POLICY_DRAW = 7
# ITU-R BT.601, with the digits that torchvision and Pillow use.
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def distort_image(key: Array, image: Array, size: Array, options: AugmentOptions) -> Array:
    """Changes the colours of an image, blurs it, and adds noise, each if it is drawn.

    Args:
      key: the random key of the sample.
      image: u8[H, W, C] on a canvas.
      size: i32[2], valid (height, width) in pixels.
      options: limits and probabilities.

    Returns:
      f32[H, W, C] in [0, 255], or u8[H, W, C] from a colour policy alone; `image` itself if all of
      it is switched off.

    Raises:
      ValueError: a colour policy, saturation or hue of an image that is not RGB.
    """
    if options.color_policy:
        policy_key = jax.random.fold_in(key, _POLICY_DRAW)
        policy, magnitude = POLICIES[options.color_policy], options.color_policy_magnitude
        image = apply_policy(policy_key, image, size, policy, magnitude=magnitude)
    color_key, blur_key, noise_key = jax.random.split(jax.random.fold_in(key, _PHOTOMETRIC_DRAW), 3)
    limits = (options.brightness, options.contrast, options.saturation)
    if any(limits) or options.hue:
        draw_key, hue_key, *factor_keys = jax.random.split(color_key, 5)
        x = image.astype(jnp.float32)
        # A step that is switched off is left out of the program.
        brightness, contrast, saturation = (
            jax.random.uniform(key, minval=1 - limit, maxval=1 + limit) if limit else None
            for key, limit in zip(factor_keys, limits, strict=True)
        )
        hue = jax.random.uniform(hue_key, minval=-1) * options.hue if options.hue else None
        jittered = jitter_colors(
            x, size, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )
        image = _choose(draw_key, options.color_probability, jittered, x)
    if options.max_blur_sigma_px:
        draw_key, sigma_key = jax.random.split(blur_key)
        x = image.astype(jnp.float32)
        sigma = jax.random.uniform(sigma_key) * options.max_blur_sigma_px
        blurred = blur_image(x, size, sigma, radius_px=math.ceil(3 * options.max_blur_sigma_px))
        image = _choose(draw_key, options.blur_probability, blurred, x)
    if options.max_noise_deviation:
        draw_key, deviation_key, noise_key = jax.random.split(noise_key, 3)
        x = image.astype(jnp.float32)
        deviation = jax.random.uniform(deviation_key) * options.max_noise_deviation
        noisy = jnp.clip(x + deviation * jax.random.normal(noise_key, x.shape), 0, 255)
        image = _choose(draw_key, options.noise_probability, noisy, x)
    return image


def _choose(key: Array, probability: float, changed: Array, image: Array) -> Array:
    return jnp.where(jax.random.uniform(key) < probability, changed, image)


def jitter_colors(
    image: Array,
    size: Array,
    *,
    brightness: Array | None = None,
    contrast: Array | None = None,
    saturation: Array | None = None,
    hue: Array | None = None,
) -> Array:
    """Scales brightness, contrast and saturation, and shifts the hue, in this order.

    The factors blend the image with black, with the mean grey level of its valid pixels, and with
    its grey levels; 1 changes nothing.

    Args:
      image: f32[H, W, C] in [0, 255], on a canvas.
      size: i32[2], valid (height, width) in pixels.
      brightness, contrast, saturation: factors f32[]; None leaves a step out.
      hue: shift f32[] in turns of the colour circle; None leaves it out.

    Returns:
      f32[H, W, C] in [0, 255].

    Raises:
      ValueError: saturation or hue of an image that is not RGB.

    Source: torchvision.transforms.ColorJitter, whose factors these are; it draws the order of the
    four steps too, which would cost all four at every place.
    """
    num_channels = image.shape[-1]
    if num_channels != 3 and not (saturation is None and hue is None):
        raise ValueError(
            f'config.augment.saturation and config.augment.hue need RGB images, these have '
            f'{num_channels} channels: set both to 0'
        )

    def blend(image: Array, other: Array | float, factor: Array) -> Array:
        return jnp.clip(factor * image + (1 - factor) * other, 0, 255)

    if brightness is not None:
        image = blend(image, 0.0, brightness)
    if contrast is not None:
        rows = jnp.arange(image.shape[0])[:, None] < size[0]
        columns = jnp.arange(image.shape[1])[None, :] < size[1]
        grey = _grey_levels(image)[..., 0]
        mean = jnp.sum(grey, where=rows & columns) / jnp.maximum(size[0] * size[1], 1)
        image = blend(image, mean, contrast)
    if saturation is not None:
        image = blend(image, _grey_levels(image), saturation)
    return image if hue is None else _shift_hue(image, hue)


def blur_image(image: Array, size: Array, sigma: Array, *, radius_px: int) -> Array:
    """Blurs the valid pixels of an image by a Gaussian.

    At the border of the image the weights inside of it are scaled up to a sum of 1.

    Args:
      image: f32[H, W, C] on a canvas.
      size: i32[2], valid (height, width) in pixels.
      sigma: f32[], standard deviation in pixels.
      radius_px: reach of the kernel.
    """
    steps = jnp.arange(-radius_px, radius_px + 1)
    # A deviation of 0 leaves the pixel itself.
    kernel = jnp.exp(-0.5 * (steps / jnp.maximum(sigma, 1e-3)) ** 2)

    def convolve(x: Array, axis: int) -> Array:
        length = x.shape[axis]
        padding = [(radius_px, radius_px) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, padding)
        total = jnp.zeros_like(x)
        for i in range(len(steps)):
            total += kernel[i] * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
        return total

    for axis in (0, 1):
        inside = (jnp.arange(image.shape[axis]) < size[axis]).astype(jnp.float32)
        inside = inside.reshape([-1 if i == axis else 1 for i in range(3)])
        weight = convolve(inside, axis)
        image = convolve(image * inside, axis) / jnp.where(weight > 0, weight, 1.0)
    return image


def _grey_levels(image: Array) -> Array:
    """Returns f32[H, W, 1], the luma of RGB or the mean of other channels."""
    if image.shape[-1] != 3:
        return jnp.mean(image, axis=-1, keepdims=True)
    return jnp.sum(image * jnp.array(_GREY_WEIGHTS), axis=-1, keepdims=True)


def _shift_hue(image: Array, shift: Array) -> Array:
    """Shifts the hue of f32[H, W, 3] by a share of the colour circle, by way of HSV."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * shift
    channels = []
    for offset in (5, 3, 1):
        k = jnp.mod(offset + sixth, 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.stack(channels, axis=-1)
