"""The rules by which masks of queries become panoptic label maps."""

import dataclasses

CONVENTIONS = ('pytorch', 'deeplab2')
MERGE_RULES = ('mask_wise', 'pixel_wise')


@dataclasses.dataclass(frozen=True)
class MaskPostprocessOptions:
    """The rules of the post-processing of mask transformers.

    Numbers may be traced arrays, f32[] or i32[].

    Attributes:
      convention: 'pytorch' (bytedance's kMaX-DeepLab) labels at the size of the image, without the
        padding, and numbers the things of each class from 1; 'deeplab2' labels at the size of the
        input, padding included, scores masks at their own resolution, and numbers a thing by its
        place among all queries.
      merge_rule: 'mask_wise' pastes the masks one after the other, the best first; 'pixel_wise'
        (MaX-DeepLab) gives every pixel to its most likely query.
      thing_threshold: lowest class score of a thing; exclusive in the convention 'pytorch'.
      stuff_threshold: lowest class score of stuff, likewise.
      pixel_threshold: lowest probability of a mask at its pixels, exclusive.
      overlap_threshold: share of a mask that better ones must leave to it, exclusive; mask-wise.
      class_exponent: exponent of the class score in the score that orders the masks.
      mask_exponent: exponent of the mean probability of a mask in that score.
      thing_area_limit_px: smallest area of a thing in pixels of the labelled map.
      stuff_area_limit_px: smallest area of a stuff class, likewise.
      min_score: lowest score, see `class_exponent`, of a thing that is kept.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    convention: str = 'pytorch'
    merge_rule: str = 'mask_wise'
    thing_threshold: float = 0.7
    stuff_threshold: float = 0.5
    pixel_threshold: float = 0.4
    overlap_threshold: float = 0.8
    class_exponent: float = 1.0
    mask_exponent: float = 1.0
    thing_area_limit_px: int = 0
    stuff_area_limit_px: int = 0
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for field, choices in (('convention', CONVENTIONS), ('merge_rule', MERGE_RULES)):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(
                    f'config.postprocess.{field} (={value!r}) must be one of {list(choices)}'
                )
        for field in _SHARES:
            value = getattr(self, field)
            # A search for the best threshold traces it, see `System.tuning_choices`.
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise ValueError(f'config.postprocess.{field} (={value!r}) must lie in [0, 1]')
        for field in _NOT_NEGATIVE:
            value = getattr(self, field)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f'config.postprocess.{field} (={value!r}) must not be negative')
        value = self.pixel_threshold
        is_known = isinstance(value, int | float)
        if self.merge_rule == 'mask_wise' and is_known and value < LOWEST_PIXEL_THRESHOLD:
            raise ValueError(
                f'config.postprocess.pixel_threshold (={value!r}) must not be below 1/3 for '
                f"config.postprocess.merge_rule='mask_wise': a pixel might belong to three masks"
            )


# At most two queries have a probability above it.
LOWEST_PIXEL_THRESHOLD = 1 / 3
_NOT_NEGATIVE = ('class_exponent', 'mask_exponent', 'thing_area_limit_px', 'stuff_area_limit_px')
_SHARES = (
    'thing_threshold',
    'stuff_threshold',
    'pixel_threshold',
    'overlap_threshold',
    'min_score',
)
