"""Choices for pictures of predictions."""

import dataclasses

from pdl_jax.data.catalog import PALETTES
from pdl_jax.systems.drawing.contrast import CONTRASTS


@dataclasses.dataclass(frozen=True)
class PictureStyle:
    """Choices for pictures of predictions.

    Attributes:
      palette: colours of the classes: 'given' with the data set, or 'colorblind', see
        `DatasetSpec.make_palette`.
      contrast: 'auto' stretches the values of dark and flat images, 'stretch' those of all images,
        'none' of none.
      alpha: share of the colours in their mix with the image, in [0, 1].
      min_side_px: pictures whose longer side is much smaller are enlarged by a whole factor to
        about this, so that names can be read; 0 keeps the size of the image.
    """

    palette: str = 'given'
    contrast: str = 'auto'
    alpha: float = 0.5
    min_side_px: int = 640

    def __post_init__(self) -> None:
        for name, choices in (('palette', PALETTES), ('contrast', CONTRASTS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f'{name} (={getattr(self, name)!r}) must be one of {", ".join(choices)}'
                )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f'alpha (={self.alpha!r}) must lie in [0, 1]')
        if not 0 <= self.min_side_px <= 4096:
            raise ValueError(f'min_side_px (={self.min_side_px!r}) must lie in [0, 4096]')


DEFAULT_STYLE = PictureStyle()
