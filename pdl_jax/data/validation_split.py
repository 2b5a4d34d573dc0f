"""Division of one annotated data set into training and validation images."""

import dataclasses
import hashlib
import json
from typing import Any

from pdl_jax.data.annotated_split import AnnotatedSplit


def divide_split(
    source: AnnotatedSplit, val_fraction: float, *, seed: int = 0
) -> tuple[AnnotatedSplit, AnnotatedSplit]:
    """Divides a split into one for training and one for validation, by the names of the images.

    The hash of its name decides about an image, so that images that are added later change the
    place of no other one. Each part gets an image at least.

    Args:
      source: the split; its items have an attribute `image_path`.
      val_fraction: share of the images for validation, between 0 and 1.
      seed: another number gives another division.

    Returns:
      The parts for training and for validation, with the items in their order.

    Raises:
      ValueError: the fraction is out of range, or there are less than two images.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f'val_fraction (={val_fraction}) must lie between 0 and 1, such as 0.2')
    if len(source.items) < 2:
        raise ValueError('val_fraction needs at least two images, there is 1: leave it out')
    places = [_hash_name(item.image_path, seed) for item in source.items]
    limit = val_fraction
    if min(places) >= limit:
        limit = min(set(places) - {min(places)})
    elif max(places) < limit:
        limit = max(places)
    train, val = [], []
    for item, place in zip(source.items, places, strict=True):
        (val if place < limit else train).append(item)
    # Notes about the input are told once.
    rest = dataclasses.replace(source, notes=(), num_images_without_annotation=0)
    return _take(source, train, 'train'), _take(rest, val, 'val')


def _hash_name(name: str, seed: int) -> float:
    """Returns a number in [0, 1) that looks random."""
    digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
    return int.from_bytes(digest[:6], 'big') / 2**48


def _take(source: AnnotatedSplit, items: list[Any], part: str) -> AnnotatedSplit:
    content = [source.fingerprint, part, [item.image_path for item in items]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return dataclasses.replace(source, items=tuple(items), fingerprint=digest)
