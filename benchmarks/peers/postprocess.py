"""Post-processing of bowenc0221/panoptic-deeplab and detectron2, from their definitions.

Both compute the distances of all pixels to all centres at once, then loop over the instances.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.inputs import (
    HEADS,
    IGNORE_LABEL,
    LABEL_DIVISOR,
    NMS_KERNEL_PX,
    STUFF_AREA_PX,
    THRESHOLD,
    TOP_K,
    list_thing_classes,
)
from benchmarks.peers.running import find_device, make_program
from benchmarks.program import Program, Setup

# Values of void; `merge_voids` maps detectron2's to the other one for the comparison.
_VOID = {'bowenc0221': IGNORE_LABEL * LABEL_DIVISOR, 'detectron2': -1}


def prepare(setup: Setup) -> Program:
    """Makes the post-processing of `setup.mode`: 'bowenc0221' or 'detectron2'."""
    arguments = setup.arguments
    device = find_device(setup)
    keys = ('labels', 'center', 'offset') if arguments['is_from_labels'] else HEADS
    maps = {key: torch.from_numpy(setup.load(key)).to(device) for key in keys}
    # A corner of the maps is enough to load whatever the first run loads.
    corner = {key: value[:, :65, :65] for key, value in maps.items()}

    return make_program(
        lambda: {'panoptic': post_process(maps, arguments, setup.mode)},
        warm_up=lambda: post_process(corner, arguments, setup.mode),
        arguments=maps,
        device=device,
        num_items=arguments['batch'],
        get_outputs=lambda outputs: {'panoptic': merge_voids(outputs['panoptic'].cpu().numpy())},
    )


def post_process(
    maps: dict[str, torch.Tensor], arguments: Mapping[str, Any], mode: str
) -> torch.Tensor:
    """Processes maps [B, H, W, ...] image by image; returns panoptic labels i64[B, H, W]."""
    things = list_thing_classes(arguments['num_classes'])
    results = []
    for i in range(len(maps['center'])):
        if 'labels' in maps:
            semantic = maps['labels'][i].long()
        else:
            semantic = maps['semantic'][i].argmax(-1)
        heat, offset = maps['center'][i, ..., 0], maps['offset'][i].permute(2, 0, 1)
        results.append(_process_image(semantic, heat, offset, things, mode))
    return torch.stack(results)


def merge_voids(panoptic: np.ndarray) -> np.ndarray:
    return np.where(panoptic == _VOID['detectron2'], _VOID['bowenc0221'], panoptic)


def _process_image(semantic, heat, offset, things, mode):
    is_thing = torch.zeros_like(semantic, dtype=torch.bool)
    for thing in things:
        is_thing |= semantic == thing
    centers = find_centers(heat, is_clamped=mode == 'detectron2')
    instance = torch.zeros_like(semantic)
    if len(centers):
        instance = is_thing * group_pixels(centers, offset)
    return merge(semantic, instance, is_thing, things, _VOID[mode])


def find_centers(heat: torch.Tensor, *, is_clamped: bool) -> torch.Tensor:
    """Finds peaks, i64[K, 2]; of `TOP_K` or more, those above the `TOP_K`-th highest."""
    heat = F.threshold(heat, THRESHOLD, -1)[None, None]
    highest = F.max_pool2d(heat, NMS_KERNEL_PX, 1, (NMS_KERNEL_PX - 1) // 2)
    heat = heat.masked_fill(heat != highest, -1)[0, 0]
    peaks = torch.nonzero(heat > 0)
    if len(peaks) < TOP_K:
        return peaks
    lowest = torch.topk(heat.flatten(), TOP_K).values[-1]
    return torch.nonzero(heat > (lowest.clamp(min=0) if is_clamped else lowest))


def group_pixels(centers: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Assigns every pixel the 1-based number of its nearest centre, i64[H, W]."""
    _, height, width = offset.shape
    rows = torch.arange(height, dtype=offset.dtype, device=offset.device)
    columns = torch.arange(width, dtype=offset.dtype, device=offset.device)
    place = torch.stack(torch.meshgrid(rows, columns, indexing='ij')) + offset
    place = place.reshape(2, height * width).transpose(0, 1)
    distance = torch.norm(centers[:, None] - place[None], dim=-1)
    return distance.argmin(0).reshape(height, width) + 1


def merge(
    semantic: torch.Tensor,
    instance: torch.Tensor,
    is_thing: torch.Tensor,
    things: tuple[int, ...],
    void: int,
) -> torch.Tensor:
    """Merges instances, each with the majority class of its pixels, and stuff of sufficient area.

    Instances are numbered per class.
    """
    panoptic = torch.full_like(semantic, void)
    counts = {}
    for number in torch.unique(instance):
        if number == 0:
            continue
        mask = (instance == number) & is_thing
        if torch.nonzero(mask).size(0) == 0:
            continue
        class_id = int(torch.mode(semantic[mask].view(-1)).values)
        counts[class_id] = counts.get(class_id, 0) + 1
        panoptic[mask] = class_id * LABEL_DIVISOR + counts[class_id]
    for class_id in torch.unique(semantic).tolist():
        if class_id in things:
            continue
        mask = (semantic == class_id) & (instance == 0)
        if torch.nonzero(mask).size(0) >= STUFF_AREA_PX:
            panoptic[mask] = class_id * LABEL_DIVISOR
    return panoptic
