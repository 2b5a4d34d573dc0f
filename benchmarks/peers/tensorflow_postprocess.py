"""Post-processing of DeepLab2 in plain TensorFlow, from its definition.

Like the other peers it computes the distances of all pixels to all centres at once and loops over
the instances, here in a graph. The published networks of DeepLab2 use it.
"""

import numpy as np
import tensorflow as tf

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
from benchmarks.program import Program, Run, Setup


def prepare(setup: Setup) -> Program:
    """Makes post-processing of a batch, image by image."""
    arguments = setup.arguments
    keys = ('labels', 'center', 'offset') if arguments['is_from_labels'] else HEADS
    maps = {key: tf.constant(setup.load(key)) for key in keys}
    things = list_thing_classes(arguments['num_classes'])
    process = tf.function(
        lambda semantic, heat, offset: process_image(
            semantic, heat, offset, things, arguments['num_classes']
        )
    )

    def run():
        results = []
        for i in range(arguments['batch']):
            semantic = (
                maps['labels'][i]
                if 'labels' in maps
                else tf.argmax(maps['semantic'][i], -1, tf.int32)
            )
            results.append(process(semantic, maps['center'][i, ..., 0], maps['offset'][i]).numpy())
        return np.stack(results)

    run = Run(run)
    run()
    return Program(
        run,
        argument_bytes=sum(value.numpy().nbytes for value in maps.values()),
        num_items=arguments['batch'],
        get_outputs=lambda: {'panoptic': run.get_result()},
    )


def process_image(
    semantic: tf.Tensor,
    heat: tf.Tensor,
    offset: tf.Tensor,
    things: tuple[int, ...],
    num_classes: int,
) -> tf.Tensor:
    """Merges classes i32[H, W], heat f32[H, W] and offsets f32[H, W, 2] to labels i32[H, W]."""
    is_thing = tf.reduce_any(semantic[..., None] == tf.constant(things), -1)
    centers = find_centers(heat)
    instance = tf.zeros_like(semantic)
    if tf.shape(centers)[0] > 0:
        instance = group_pixels(centers, offset) * tf.cast(is_thing, tf.int32)
    return merge(semantic, instance, is_thing, things, num_classes)


def find_centers(heat: tf.Tensor) -> tf.Tensor:
    """Finds peaks, i64[K, 2]; of more than `TOP_K`, those above the `TOP_K`-th highest."""
    heat = tf.where(heat > THRESHOLD, heat, 0.0)
    before = (NMS_KERNEL_PX - 1) // 2
    after = NMS_KERNEL_PX - 1 - before
    padded = tf.pad(heat, [[before, after], [before, after]])
    highest = tf.nn.max_pool2d(padded[None, ..., None], NMS_KERNEL_PX, 1, 'VALID')[0, ..., 0]
    heat = tf.where(heat == highest, heat, 0.0)
    centers = tf.where(heat > 0)
    if tf.shape(centers)[0] > TOP_K:
        lowest = tf.math.top_k(tf.reshape(heat, [-1]), TOP_K, sorted=False).values[-1]
        centers = tf.where(heat > lowest)
    return centers


def group_pixels(centers: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Assigns every pixel the 1-based number of its nearest centre, i32[H, W]."""
    height, width = tf.unstack(tf.shape(offset)[:2])
    rows, columns = tf.meshgrid(tf.range(height), tf.range(width), indexing='ij')
    place = tf.reshape(tf.cast(tf.stack([rows, columns], -1), tf.float32) + offset, [1, -1, 2])
    distance = tf.norm(tf.cast(centers, tf.float32)[:, None] - place, axis=-1)
    return tf.reshape(tf.argmin(distance, 0, tf.int32), [height, width]) + 1


def merge(
    semantic: tf.Tensor,
    instance: tf.Tensor,
    is_thing: tf.Tensor,
    things: tuple[int, ...],
    num_classes: int,
) -> tf.Tensor:
    """Merges instances, each with the majority class of its pixels, and stuff of sufficient area.

    Instances are numbered per class.
    """
    panoptic = tf.fill(tf.shape(semantic), IGNORE_LABEL * LABEL_DIVISOR)
    counts = tf.zeros([num_classes], tf.int32)
    for number in tf.unique(tf.reshape(instance, [-1])).y:
        if number > 0:
            mask = (instance == number) & is_thing
            votes = tf.math.bincount(
                tf.boolean_mask(semantic, mask), minlength=num_classes, maxlength=num_classes
            )
            class_id = tf.argmax(votes, output_type=tf.int32)
            counts = tf.tensor_scatter_nd_add(counts, [[class_id]], [1])
            panoptic = tf.where(mask, class_id * LABEL_DIVISOR + counts[class_id], panoptic)
    for class_id in tf.unique(tf.reshape(semantic, [-1])).y:
        if not tf.reduce_any(class_id == tf.constant(things)):
            mask = (semantic == class_id) & (instance == 0)
            if tf.math.count_nonzero(mask, dtype=tf.int32) >= STUFF_AREA_PX:
                panoptic = tf.where(mask, class_id * LABEL_DIVISOR, panoptic)
    return panoptic
