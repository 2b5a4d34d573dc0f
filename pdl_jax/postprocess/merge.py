"""Merging of semantic and instance maps into one panoptic label map."""

import jax.numpy as jnp

from pdl_jax.ops.segments import count_pairs, first_pixels, lookup
from pdl_jax.typing import Array, LabelFormat


def is_in_classes(semantic: Array, classes: tuple[int, ...]) -> Array:
    """Tests which pixels belong to a set of classes.

    Compares with ranges of consecutive classes, of which data sets have few, so that no table is
    read.

    Args:
      semantic: i32[...].
      classes: static class indices.

    Returns:
      bool[...].
    """
    result = jnp.zeros(semantic.shape, bool)
    for first in sorted(set(classes) - {c + 1 for c in classes}):
        last = first
        while last + 1 in classes:
            last += 1
        result = result | ((semantic >= first) & (semantic <= last))
    return result


def merge_panoptic(
    semantic: Array,
    instance: Array,
    *,
    label_format: LabelFormat,
    max_instances: int,
    stuff_area_limit: int,
    is_limit_void: bool = False,
    is_rest_instance: bool = False,
) -> Array:
    """Merges class-agnostic instances with semantic classes by majority vote.

    The rules are those of DeepLab2's TensorFlow merge:
    - an instance consists of its pixels of thing classes; its class is the most frequent one, the
      smallest on ties;
    - instances of a class are numbered from 1 in raster order of their first pixel;
    - a stuff class is kept if it covers at least `stuff_area_limit` pixels, else it is void;
      instance ids of stuff pixels do not matter;
    - thing pixels without an instance, and pixels of the ignored class, are void.
    In addition, instances whose number would reach label_divisor are void instead of spilling into
    the next class.

    Args:
      semantic: i32[H, W].
      instance: i32[H, W], 1..max_instances, 0 for pixels without an instance.
      label_format: encoding of classes and instances.
      max_instances: highest instance id K.
      stuff_area_limit: smallest area of a stuff class in pixels.
      is_limit_void: an area equal to a nonzero limit is void too (DeepLab2's custom op).
      is_rest_instance: the thing pixels without an instance form one more instance (DeepLab2's
        custom op) instead of being void.

    Returns:
      i32[H, W], panoptic labels.
    """
    divisor, void = label_format.label_divisor, label_format.void_label
    num_classes = label_format.num_semantic_values
    is_thing = is_in_classes(semantic, label_format.thing_classes)
    if is_rest_instance:
        max_instances += 1
        instance = jnp.where(instance > 0, instance, max_instances)
    is_voter = is_thing & (instance > 0) & (instance <= max_instances)
    # The last row counts the pixels without an instance: the areas of stuff.
    row = jnp.where(is_voter, instance - 1, max_instances)
    counts = count_pairs(row, semantic, max_instances + 1, num_classes)
    votes, rest = counts[:-1], counts[-1]

    class_of = jnp.argmax(votes, axis=1).astype(jnp.int32)
    first = first_pixels(row, max_instances)
    is_before = (class_of[None, :] == class_of[:, None]) & (first[None, :] < first[:, None])
    number = 1 + jnp.sum(is_before, axis=1, dtype=jnp.int32)
    instance_label = jnp.where(number < divisor, class_of * divisor + number, void)

    classes = jnp.arange(num_classes, dtype=jnp.int32)
    is_stuff = is_in_classes(classes, label_format.stuff_classes)
    smallest = stuff_area_limit + (1 if is_limit_void and stuff_area_limit else 0)
    stuff_label = jnp.where(is_stuff & (rest >= smallest), classes * divisor, void)

    table = jnp.concatenate([instance_label, stuff_label])
    is_class = (semantic >= 0) & (semantic < num_classes)
    panoptic = lookup(table, jnp.where(is_voter, row, max_instances + semantic))
    return jnp.where(is_class, panoptic, void)
