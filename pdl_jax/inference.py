"""From an image to its panoptic map: resize, network, post-processing, and the way back to the original pixels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pdl_jax.models.panoptic_deeplab import PanopticDeepLab
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    centered_window,
    resize_to_range,
    sample_image,
    sample_labels,
)
from pdl_jax.sharding import split_rows
from pdl_jax.typing import Array, LabelFormat, PyTree


def abstract_variables(model: PanopticDeepLab) -> dict[str, PyTree]:
    """Shapes and dtypes of {'params', 'batch_stats'}; they do not depend on the input size."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))


def make_inference_step(
    model: PanopticDeepLab,
    *,
    label_format: LabelFormat,
    augment: AugmentOptions,
    postprocess: dict[str, Any],
    input_size: tuple[int, int],
) -> Callable[[PyTree, Array, Array], dict[str, Array]]:
    """Makes the pure function that evaluation and prediction share; to be jitted.

    Args:
      model: the network.
      label_format: how classes and instances are coded.
      augment: its resize and normalisation apply; its random parts do not.
      postprocess: keyword arguments of `post_process`.
      input_size: (height, width) of the network input in pixels; images are padded to it at the bottom and right.

    Returns:
      (variables, image u8[B, H, W, 3] on a canvas, size i32[B, 2]) -> maps at the canvas size with every image in its
      top-left corner: 'panoptic' i32[B, H, W] (void outside of the image), 'semantic' i32[B, H, W],
      'class_probability' f32[B, H, W], 'center_score' f32[B, H, W].
    """

    def infer(variables, image, size):
        def prepare(image, size):
            resized = resize_to_range(size, augment.resize_min_px, augment.resize_max_px)
            window = centered_window(size, resized, input_size)
            image = sample_image(image, size, window, normalization=augment.normalization)
            return image, resized

        images, resized = jax.vmap(prepare)(image, size)
        outputs = model.apply(variables, split_rows(images), train=False)
        outputs = split_rows(model.upsample(outputs, input_size))
        maps = post_process(outputs, label_format=label_format, **postprocess)
        canvas = image.shape[1:3]

        def restore(labels, size, resized, fill):
            window = centered_window(resized, size, canvas)
            return sample_labels(labels, resized, window, fill=fill)

        fills = {
            'panoptic': label_format.void_label,
            'semantic': label_format.ignore_label,
            'class_probability': 0.0,
            'center_score': 0.0,
        }
        restore_batch = jax.vmap(restore, in_axes=(0, 0, 0, None))
        return {
            key: restore_batch(maps[key], size, resized, fill) for key, fill in fills.items()
        }

    return infer
