"""The whole way from DeeperLab's outputs to panoptic label maps."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.ops.keypoints import refine_positions
from pdl_jax.ops.label_probability import probability_of_labels
from pdl_jax.ops.placement import map_per_device
from pdl_jax.postprocess.keypoint_candidates import (
    complete_candidates,
    find_candidates,
    vote_keypoints,
)
from pdl_jax.postprocess.keypoint_grouping import (
    assign_pixels,
    group_candidates,
    point_from_pixels,
    score_instances,
)
from pdl_jax.postprocess.merge import is_in_classes, merge_panoptic
from pdl_jax.postprocess.panoptic import label_semantic
from pdl_jax.postprocess.scores import map_center_scores
from pdl_jax.typing import Array, LabelFormat, check_not_negative, check_positive, check_share


@dataclasses.dataclass(frozen=True)
class KeypointPostprocessOptions:
    """The rules of post-processing.

    Attributes:
      radius_px: radius of the discs that the heat maps were trained with, and the distance within
        which two keypoints of a kind are the same.
      keypoint_threshold: lowest vote of a keypoint that may begin an instance, exclusive.
      max_candidates: most keypoints of each kind that may begin one, the highest.
      max_instances: most instances of an image.
      num_refinements: times that predicted positions of keypoints are moved along the short-range
        offsets that they meet.
      stuff_area_limit_px: smallest area of a stuff class in pixels.
      min_score: lowest score of a thing, inclusive; the pixels of others are void, see
        `drop_things`.
      min_area_px: smallest area of a thing in pixels of the original image, likewise.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    radius_px: float = 10.0
    keypoint_threshold: float = 0.01
    max_candidates: int = 200
    max_instances: int = 200
    num_refinements: int = 2
    stuff_area_limit_px: int = 2048
    min_score: float = 0.0
    min_area_px: int = 0

    def __post_init__(self) -> None:
        check_positive('postprocess', self, 'radius_px', 'max_candidates', 'max_instances')
        check_not_negative(
            'postprocess', self, 'num_refinements', 'min_area_px', 'stuff_area_limit_px'
        )
        for field in ('keypoint_threshold', 'min_score'):
            # A search for the best threshold traces it, see `System.tuning_choices`.
            if isinstance(getattr(self, field), int | float):
                check_share('postprocess', self, field)


def label_keypoint_outputs(
    outputs: dict[str, Array],
    *,
    label_format: LabelFormat,
    options: KeypointPostprocessOptions = KeypointPostprocessOptions(),
    size: tuple[int, int],
    resize: str = 'corner_aligned',
) -> dict[str, Array]:
    """Turns outputs of DeeperLab into panoptic label maps.

    Args:
      outputs: 'semantic': f32[B, h, w, C] logits, and at the resolution of the result 'keypoint':
        f32[B, H, W, K] logits, 'short' and 'long': f32[B, H, W, 2 K], 'middle': f32[B, H, W, 2 E],
        (dy, dx) in pixels, see `preprocess.keypoint_targets`.
      label_format: how classes and instances are coded.
      options: the rules.
      size: (H, W) of the result in pixels, to which the logits are upsampled without a map of all
        classes.
      resize: how they are upsampled, see `ops.resize.resize_bilinear`.

    Returns:
      'panoptic': i32[B, H, W].
      'semantic': i32[B, H, W], before the majority vote.
      'instance': i32[B, H, W], 1-based row of the pixel's instance; 0 on stuff.
      'class_probability': f32[B, H, W], probability of the class of the pixel's segment; of that in
        'semantic' where the pixel is void.
      'score': f32[B, H, W], the mean heat at the keypoints of the pixel's instance; 0 on stuff.

    Raises:
      ValueError: the logits have another number of classes than the label format.
    """
    pixel_classes = label_semantic(
        outputs['semantic'], label_format=label_format, size=size, resize=resize
    )

    def process(semantic: Array, *maps: Array) -> dict[str, Array]:
        is_thing = is_in_classes(semantic, label_format.thing_classes)
        instance, scores = find_instances(*maps, options=options)
        instance = jnp.where(is_thing, instance, 0)
        panoptic = merge_panoptic(
            semantic,
            instance,
            label_format=label_format,
            max_instances=options.max_instances,
            stuff_area_limit=options.stuff_area_limit_px,
        )
        score = map_center_scores(instance, scores)
        return {'panoptic': panoptic, 'instance': instance, 'score': score}

    semantic = pixel_classes.semantic
    maps = (outputs[key] for key in ('keypoint', 'short', 'middle', 'long'))
    # Loops over candidates and instances have lengths that depend on the images.
    labels = map_per_device(jax.vmap(process))(semantic, *maps)
    voted = labels['panoptic'] // label_format.label_divisor
    voted = jnp.where(voted == label_format.ignore_label, semantic, voted)
    logits = outputs['semantic'].astype(jnp.float32)
    probability = probability_of_labels(logits, pixel_classes, voted, resize)
    return {**labels, 'semantic': semantic, 'class_probability': probability}


def find_instances(
    keypoint: Array,
    short: Array,
    middle: Array,
    long: Array,
    *,
    options: KeypointPostprocessOptions,
) -> tuple[Array, Array]:
    """Finds the instances of an image and assigns every pixel to one.

    Args:
      keypoint: f32[H, W, K] logits.
      short, middle, long: f32[H, W, 2 N], (dy, dx) in pixels of N keypoints or edges.
      options: the rules.

    Returns:
      instance: i32[H, W], 1-based row of the instance; 0 if there is none.
      scores: f32[M] in [0, 1], the mean heat at the keypoints of each instance.
    """
    heatmap = jax.nn.sigmoid(keypoint.astype(jnp.float32))
    short, middle, long = (
        x.astype(jnp.float32).reshape(*x.shape[:2], -1, 2) for x in (short, middle, long)
    )
    votes = vote_keypoints(heatmap, short, radius_px=options.radius_px)
    candidates = find_candidates(
        votes,
        short,
        threshold=options.keypoint_threshold,
        max_candidates=options.max_candidates,
    )
    keypoints = complete_candidates(
        candidates, short, middle, num_refinements=options.num_refinements
    )
    keypoints, valid = group_candidates(
        candidates,
        keypoints,
        radius_px=options.radius_px,
        max_instances=options.max_instances,
    )
    pointed = refine_positions(point_from_pixels(long), short, options.num_refinements)
    scores = score_instances(keypoints, heatmap)
    return assign_pixels(keypoints, valid, pointed), jnp.where(valid, scores, 0.0)
