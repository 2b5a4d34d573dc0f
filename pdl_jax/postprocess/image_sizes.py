"""The sizes of images that lie in an input and are labelled at their own size."""

from typing import NamedTuple

from pdl_jax.typing import Array


class ImageSizes(NamedTuple):
    """The sizes that images in the top left corner of an input are labelled at.

    Attributes:
      resized: i32[B, 2], (height, width) in pixels of the images in the input.
      original: i32[B, 2], (height, width) in pixels of the images, and of their labels.
      canvas: (height, width) in pixels of the label maps.
    """

    resized: Array
    original: Array
    canvas: tuple[int, int]
