"""A split in memory, and a part of it held out for rewards."""

from typing import NamedTuple

import jax
import numpy as np

from pdl_jax.data.pipeline import make_eval_batches
from pdl_jax.data.records import RecordSource
from pdl_jax.ops.rounding import ceil_div

_MAX_BYTES = 2**34


class Images(NamedTuple):
    """Images with their labels, on canvases.

    Attributes:
      image: u8[N, H, W, C].
      panoptic: i32[N, H, W].
      size: i32[N, 2], (height, width) in pixels.
    """

    image: np.ndarray
    panoptic: np.ndarray
    size: np.ndarray

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.image)


def load_images(source: RecordSource) -> Images:
    """Reads all images of a split.

    Raises:
      ValueError: they would take too much memory, or one cannot be read.
    """
    height, width = source.max_size
    num_bytes = len(source) * height * width * (source.pixels.num_channels + 4)
    if num_bytes > _MAX_BYTES:
        raise ValueError(
            f'{source} take {num_bytes / 2**30:.0f} GiB in memory, more than '
            f'{_MAX_BYTES / 2**30:.0f}: prepare a split of fewer or smaller images'
        )
    (batch,) = make_eval_batches(source, batch_size=len(source))
    return Images(*(batch[key] for key in Images._fields))


def hold_out(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Splits images at random into those to train on and those to score.

    Args:
      images: all of them.
      share: of those to score, in [0, 1].
      seed: of the choice.

    Raises:
      ValueError: a part would be empty.
    """
    num_held = round(share * images.count)
    if not 0 < num_held < images.count:
        raise ValueError(
            f'config.search.holdout_share (={share}) leaves {num_held} of {images.count} images '
            f'for rewards: give each part some'
        )
    order = np.random.default_rng(seed).permutation(images.count)
    rest, held = order[num_held:], order[:num_held]
    return jax.tree.map(lambda x: x[rest], images), jax.tree.map(lambda x: x[held], images)


def draw_batches(num_images: int, batch_size: int, num_steps: int, seed: int) -> np.ndarray:
    """Draws i32[num_steps, batch_size] indices of images, epoch after epoch in a new order."""
    rng = np.random.default_rng(seed)
    needed = batch_size * num_steps
    epochs = [rng.permutation(num_images) for _ in range(ceil_div(needed, num_images))]
    return np.concatenate(epochs)[:needed].reshape(num_steps, batch_size).astype(np.int32)
