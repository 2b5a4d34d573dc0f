"""The function that is exported: images in, panoptic maps and tables of their segments out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.prediction.export.weights import restore_variables
from pdl_jax.prediction.inference import Inference
from pdl_jax.typing import Array, PyTree

# The names and the order of what a program returns.
OUTPUTS = (
    'panoptic',
    'segment_label',
    'segment_class',
    'segment_score',
    'segment_area',
    'segment_box',
    'segment_centroid',
    'segment_valid',
)


# Compared by identity: arrays have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class ImageProgram:
    """A system with its variables as a function of images.

    Attributes:
      inference: the system on a canvas.
      stored: its variables, see `weights.store_variables`.
      canvas: (height, width) in pixels that images are padded to.
      size: (height, width) of the images in pixels; None for any that the canvas holds.
      num_channels: channels of the images.
      dtype: type of the stored kernels, see `weights.DTYPES`.
      is_opaque: keep XLA from computing with the variables and the size at compile time, so that
        the arithmetic is that of the predictor.
    """

    inference: Inference
    stored: PyTree
    canvas: tuple[int, int]
    size: tuple[int, int] | None
    num_channels: int
    dtype: str = 'float32'
    is_opaque: bool = False

    def __call__(self, image: Array) -> tuple[Array, ...]:
        """Labels images.

        Args:
          image: u8[B, H, W, C] in RGB order.

        Returns:
          In the order of `OUTPUTS`, for S segments, the valid ones first:
          panoptic i32[B, H, W] = class * label divisor + instance;
          segment_label i32[B, S], panoptic values, ascending;
          segment_class i32[B, S];
          segment_score f32[B, S] in [0, 1];
          segment_area i32[B, S] in pixels;
          segment_box i32[B, S, 4], (y0, x0, y1, x1) in pixels, ends exclusive;
          segment_centroid f32[B, S, 2], (y, x) in pixels;
          segment_valid bool[B, S].
        """
        stored = self.stored
        batch, height, width = image.shape[:3]
        missing = [n - m for n, m in zip(self.canvas, (height, width), strict=True)]
        size = jnp.array([height, width], jnp.int32)
        if any(not isinstance(n, int) or n for n in missing):
            image = jnp.pad(image, ((0, 0), *((0, n) for n in missing), (0, 0)))
        if self.is_opaque:
            # The predictor gets both as arguments, one size an image.
            stored, size = jax.lax.optimization_barrier((jax.tree.map(jnp.asarray, stored), size))
            size = jnp.broadcast_to(size, (batch, 2))
        maps = self.inference.label_maps(restore_variables(stored), image, size)
        table = self.inference.system.describe_segments(maps)
        divisor = self.inference.system.label_format.label_divisor
        found = {
            **{f'segment_{key}': column for key, column in table.items()},
            'segment_class': table['label'] // divisor,
            'segment_score': jnp.clip(table['score'], 0, 1),
            'panoptic': maps.panoptic[:, :height, :width],
        }
        return tuple(found[name] for name in OUTPUTS)


def abstract_image(program: ImageProgram, batch_size: int | None) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of the images; sizes are symbols where any will do."""
    names = ('batch', 'height', 'width')
    limits = [f'{name} <= {n}' for name, n in zip(names[1:], program.canvas, strict=True)]
    symbols = jax.export.symbolic_shape(', '.join(names), constraints=limits)
    sizes = (batch_size, *(program.size or (None, None)))
    chosen: list[Any] = [
        symbol if n is None else n for symbol, n in zip(symbols, sizes, strict=True)
    ]
    return jax.ShapeDtypeStruct((*chosen, program.num_channels), np.uint8)


def map_images(function: Callable[[Array], tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """Makes a function of batches of any size from one of single images [1, ...].

    The images are computed one after the other, each exactly as alone.
    """

    def run(images: Array) -> tuple[Array, ...]:
        results = jax.lax.map(lambda image: function(image[None]), images)
        return tuple(result[:, 0] for result in results)

    return run
