"""Batches that systems take and return."""

from typing import NamedTuple

from pdl_jax.typing import Array


class Samples(NamedTuple):
    """A batch as the network sees it.

    Attributes:
      image: f32[B, H, W, C], normalised.
      panoptic: i32[B, H, W], the label map on the same pixels.
    """

    image: Array
    panoptic: Array


class LabelMaps(NamedTuple):
    """A labelled batch.

    Attributes:
      panoptic: i32[B, H, W]; a semantic system gives every class instance 0.
      semantic: i32[B, H, W], the class of each pixel by itself.
      class_probability: f32[B, H, W], probability of the class of the pixel's segment; of that in
        `semantic` where the pixel is void.
      score: f32[B, H, W], confidence in the pixel's instance; 1 where that means nothing.
    """

    panoptic: Array
    semantic: Array
    class_probability: Array
    score: Array


def image_size(images: Array) -> tuple[int, int]:
    """Returns the (height, width) in pixels of [B, H, W, ...]."""
    return images.shape[1], images.shape[2]
