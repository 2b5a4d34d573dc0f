"""Fields of a configuration that fit a data set, from the statistics of its labels.

Rules of thumb with their reasons, as a start that a person reads and changes; nobody measured them
to be the best. They give about the hand-made values of configs/nuclei.py and configs/scenes.py.
"""

import math
from typing import Any, NamedTuple

from pdl_jax.data import catalog
from pdl_jax.data.statistics import SplitStatistics
from pdl_jax.ops.rounding import ceil_div

# Pixels of all crops of a step that two CPU cores do in about a second with the small network.
_PIXELS_PER_STEP = 330_000
# Side of a crop in diameters of large objects: room for one whole object and its neighbours.
_CROP_DIAMETERS = 3
_MIN_CROP_PX = 129
_MAX_CROP_PX = 1025
# A class with a smaller part of the labelled pixels is rare.
_RARE_SHARE = 0.01


class Setting(NamedTuple):
    """A field of the configuration, its value and the reason."""

    field: str
    value: Any
    reason: str


def suggest_settings(statistics: SplitStatistics, spec: catalog.DatasetSpec) -> list[Setting]:
    """Suggests what depends on the data: crop, targets, post-processing, batch and schedule.

    Args:
      statistics: counts over the training split.
      spec: classes and label format.
    """
    crop = _suggest_crop(statistics)
    settings = [
        Setting('augment.crop_height_px', crop[0], crop[2]),
        Setting('augment.crop_width_px', crop[1], ''),
        *_suggest_loss(statistics, spec),
        *_suggest_schedule(statistics, crop[:2]),
    ]
    if any(statistics.objects):
        settings += _suggest_instances(statistics)
    area = statistics.heights_px[1] * statistics.widths_px[1]
    if spec.label_format.stuff_classes and spec.label_format.thing_classes:
        limit = max(1, round(area * 0.002))
        settings.append(
            Setting('postprocess.stuff_area_limit_px', limit, '0.2 % of an image of median size')
        )
    return settings


def _suggest_crop(statistics: SplitStatistics) -> tuple[int, int, str]:
    """Returns (height, width) in pixels, each k * 32 + 1, and the reason."""
    diameter = _pool_diameter(statistics, 4)
    wanted = _MAX_CROP_PX if diameter is None else min(_MAX_CROP_PX, _CROP_DIAMETERS * diameter)
    wanted = max(_MIN_CROP_PX, wanted)
    sides = [
        ceil_div(round(min(wanted, largest)) - 1, 32) * 32 + 1
        for largest in (statistics.heights_px[2], statistics.widths_px[2])
    ]
    reason = 'the largest image'
    if diameter is not None and _CROP_DIAMETERS * diameter < min(
        statistics.heights_px[2], statistics.widths_px[2], _MAX_CROP_PX
    ):
        reason = f'{_CROP_DIAMETERS} diameters of a large object ({diameter:.0f} px)'
    return sides[0], sides[1], reason


def _suggest_loss(statistics: SplitStatistics, spec: catalog.DatasetSpec) -> list[Setting]:
    labelled = max(1, sum(statistics.pixels[:-1]))
    shares = {
        spec.class_names[c]: statistics.pixels[c] / labelled
        for c in spec.category_of_class
        if statistics.pixels[c]
    }
    rare = {name: share for name, share in shares.items() if share < _RARE_SHARE}
    if len(shares) < 3 or not rare:
        return []
    name, share = min(rare.items(), key=lambda item: item[1])
    return [
        Setting(
            'loss.top_k_fraction',
            0.2,
            f'only the hardest pixels count: {len(rare)} classes are rare ({name!r} has '
            f'{share:.2%} of the pixels), and the mean over all pixels would ignore them',
        )
    ]


def _suggest_schedule(statistics: SplitStatistics, crop: tuple[int, ...]) -> list[Setting]:
    batch = 2 ** round(math.log2(max(2.0, _PIXELS_PER_STEP / (crop[0] * crop[1]))))
    batch = min(16, batch)
    # Small sets are seen a hundred times, large ones ten times.
    epochs = min(100.0, max(10.0, 6000 / statistics.num_images))
    steps = max(400, round(epochs * statistics.num_images / batch, -2))
    rate = float(f'{2e-3 * math.sqrt(batch / 16):.1g}')
    return [
        Setting('train.batch_size', batch, 'of a size that two CPU cores do in about a second'),
        Setting('optimizer.learning_rate', rate, '2e-3 at 16 images, with the root of the batch'),
        Setting('train.num_steps', int(steps), f'some {steps * batch / statistics.num_images:.0f} '
                'passes over the images'),
        Setting('train.evaluate_every_steps', max(100, int(steps) // 4), ''),
        Setting('train.checkpoint_every_steps', max(100, int(steps) // 4), ''),
    ]  # fmt: skip


def _suggest_instances(statistics: SplitStatistics) -> list[Setting]:
    median, small = _pool_diameter(statistics, 2), _pool_diameter(statistics, 1)
    assert median is not None and small is not None  # There are objects.
    sigma = round(min(8.0, max(2.0, median / 4)), 1)
    settings = [
        Setting(
            'targets.sigma_px', sigma, f'a quarter of the median diameter ({median:.0f} px), at '
            'most 8'
        ),
        Setting(
            'targets.small_instance_area_px',
            min(4096, round(math.pi / 4 * small**2)),
            'the smallest quarter of the objects weighs more',
        ),
    ]  # fmt: skip
    if statistics.neighbor_distances_px is not None:
        near = statistics.neighbor_distances_px[0]
        window = min(41, max(3, 2 * int(near / 2) - 1))
        settings.append(
            Setting(
                'postprocess.nms_kernel_px', window, f'neighbours come as near as {near:.0f} px'
            )
        )
    return settings


def _pool_diameter(statistics: SplitStatistics, quantile: int) -> float | None:
    """Averages a quantile of the diameters over the classes, weighted by their objects."""
    pairs = [
        (count, values[quantile])
        for count, values in zip(statistics.objects, statistics.diameters_px, strict=True)
        if values is not None
    ]
    total = sum(count for count, _ in pairs)
    return sum(count * value for count, value in pairs) / total if total else None
