"""The choice of the things that a system reports."""

import functools

import jax

from pdl_jax.postprocess.rejection import drop_things
from pdl_jax.systems.system import LabelMaps, System


def reject_things(system: System, maps: LabelMaps, min_score: float, min_area_px: int) -> LabelMaps:
    """Makes things void that are too uncertain or too small, see `System.filter_segments`."""
    if not min_score and not min_area_px:
        return maps
    drop = functools.partial(
        drop_things,
        label_format=system.label_format,
        min_score=min_score,
        min_area_px=min_area_px,
    )
    return maps._replace(panoptic=jax.vmap(drop)(maps.panoptic, system.describe_segments(maps)))
