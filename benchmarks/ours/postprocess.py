"""Post-processing from maps at full resolution to panoptic labels."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.inputs import (
    HEADS,
    IGNORE_LABEL,
    LABEL_DIVISOR,
    NMS_KERNEL_PX,
    STUFF_AREA_PX,
    TOP_K,
    list_thing_classes,
)
from benchmarks.ours.compiled import compile_program
from benchmarks.program import Program, Setup
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.merge import is_in_classes, merge_panoptic
from pdl_jax.postprocess.panoptic import PostprocessOptions, post_process
from pdl_jax.typing import LabelFormat

POSTPROCESS = PostprocessOptions(
    nms_kernel_px=NMS_KERNEL_PX,
    max_centers=TOP_K,
    stuff_area_limit_px=STUFF_AREA_PX,
    top_k_rule='above_kth',
)


def prepare(setup: Setup) -> Program:
    """Makes post-processing from logits, or with 'is_from_labels' from a semantic label map."""
    arguments = setup.arguments
    if arguments['is_from_labels']:
        maps = {key: jax.device_put(setup.load(key)) for key in ('labels', 'center', 'offset')}
        return compile_program(make_merge(arguments), (maps,), num_items=arguments['batch'])
    maps = {key: jax.device_put(setup.load(key)) for key in HEADS}
    return compile_program(make_post_process(arguments), (maps,), num_items=arguments['batch'])


def make_label_format(num_classes: int) -> LabelFormat:
    return LabelFormat(num_classes, list_thing_classes(num_classes), IGNORE_LABEL, LABEL_DIVISOR)


def make_post_process(
    arguments: Mapping[str, Any], **rest: Any
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Makes the complete post-processing by the peers' rules; `rest` goes to `post_process`."""
    label_format = make_label_format(arguments['num_classes'])

    def run(maps):
        result = post_process(
            maps,
            label_format=label_format,
            options=POSTPROCESS,
            **rest,
        )
        return {'panoptic': result['panoptic']}

    return run


def make_merge(arguments: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Makes the part of `post_process` after the classification of pixels."""
    label_format = make_label_format(arguments['num_classes'])

    def process(labels, center, offset):
        centers, _, valid = find_centers(
            center[..., 0], kernel_px=NMS_KERNEL_PX, max_centers=TOP_K, top_k_rule='above_kth'
        )
        is_thing = is_in_classes(labels, label_format.thing_classes)
        instance = jnp.where(is_thing, group_pixels(centers, valid, offset), 0)
        return merge_panoptic(
            labels,
            instance,
            label_format=label_format,
            max_instances=TOP_K,
            stuff_area_limit=STUFF_AREA_PX,
        )

    def run(maps):
        return {'panoptic': jax.vmap(process)(maps['labels'], maps['center'], maps['offset'])}

    return run
