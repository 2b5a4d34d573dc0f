"""The sizes of images that a network takes."""

import dataclasses

from pdl_jax.ops.rounding import ceil_div


@dataclasses.dataclass(frozen=True)
class PixelGrid:
    """The input sizes that a network takes.

    Attributes:
      stride: output stride.
      is_corner_aligned: whether sizes are k * stride + 1 and resizes align corners; else sizes are
        multiples of the stride and pixel centres are aligned.
    """

    stride: int = 1
    is_corner_aligned: bool = False

    @property
    def resize(self) -> str:
        """The mode of `ops.resize.resize_bilinear`."""
        return 'corner_aligned' if self.is_corner_aligned else 'half_pixel'

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the smallest input (height, width) in pixels that holds `size`."""
        excess = int(self.is_corner_aligned)
        height, width = (
            ceil_div(max(n - excess, 1), self.stride) * self.stride + excess for n in size
        )
        return height, width

    def scale(self, size: tuple[int, int], factor: float) -> tuple[int, int]:
        """Returns the input (height, width) of an image resized by a factor.

        That is int((n - 1) * factor + 1) where corners are aligned (DeepLab2), else the multiple
        of the stride nearest to n * factor.
        """
        if self.is_corner_aligned:
            height, width = (int((n - 1) * factor + 1) for n in size)
        else:
            height, width = (max(1, round(n * factor / self.stride)) * self.stride for n in size)
        return height, width
