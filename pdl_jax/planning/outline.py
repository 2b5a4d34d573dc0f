"""What a program must know of its data; stands for a split that is not there."""

import dataclasses

from ml_collections import ConfigDict

from pdl_jax.config import canvas_size
from pdl_jax.data import catalog
from pdl_jax.data.records import RecordSource, open_split


@dataclasses.dataclass(frozen=True)
class SplitOutline:
    """The properties of a split that shapes depend on; see `data.records.RecordSource`."""

    spec: catalog.DatasetSpec
    max_size: tuple[int, int]
    max_segments: int = 0


def find_split(
    config: ConfigDict, split: str, image_size: tuple[int, int] | None = None
) -> RecordSource | SplitOutline:
    """Opens a split, or outlines it where it has not been prepared.

    Args:
      config: of the run. Without data its number of classes counts, and the size of images is its canvas, else that of the
        dataset with so many classes, else its crop.
      split: its name.
      image_size: (height, width) in pixels that holds every image of an outlined split.

    Raises:
      ValueError: there is neither data nor a number of classes.
    """
    try:
        return open_split(config.data.path, split)
    except FileNotFoundError:
        pass
    data, crop = config.data, config.augment
    if not data.num_classes:
        raise ValueError(
            f'there is no data at config.data.path (={data.path!r}): set config.data.num_classes to plan without'
        )
    spec, largest = _find_dataset(data.num_classes)
    largest = largest or (crop.crop_height_px, crop.crop_width_px)
    size = image_size or canvas_size(config, largest)
    return SplitOutline(spec, tuple(size))


def _find_dataset(num_classes):
    """A dataset with so many classes, and the size of its largest image where it is known."""
    for spec, size in ((catalog.coco(), (640, 640)), (catalog.cityscapes(), (1024, 2048))):
        if spec.num_classes == num_classes:
            return spec, size
    # Which classes are things changes constants, hardly what they cost.
    categories = [{'id': i, 'name': f'class {i}', 'isthing': i % 2} for i in range(num_classes)]
    return catalog.from_categories('outline', categories), None
