"""The whole way from network outputs to panoptic label maps."""

import functools

import jax
import jax.numpy as jnp

from pdl_jax.ops.enlarged_logits import classify_pixels
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.merge import is_in_classes, merge_panoptic
from pdl_jax.postprocess.scores import map_center_scores, score_at_centroids
from pdl_jax.typing import Array, LabelFormat

SCORE_RULES = ('assigned', 'centroid')


def post_process(
    outputs: dict[str, Array],
    *,
    label_format: LabelFormat,
    center_threshold: float = 0.1,
    nms_kernel_px: int,
    max_centers: int,
    stuff_area_limit: int,
    top_k_rule: str = 'highest',
    score_rule: str = 'assigned',
    is_limit_void: bool = False,
    is_rest_instance: bool = False,
    size: tuple[int, int] | None = None,
    resize: str = 'corner_aligned',
) -> dict[str, Array]:
    """Turns network outputs into panoptic label maps.

    Images are mapped with vmap, so a batch that is sharded over devices stays sharded; every step
    needs only a few maps of memory per image.

    Args:
      outputs: 'semantic': f32[B, h, w, C] logits and, of a network with an instance branch, at the
        resolution of the result 'center': f32[B, H, W, 1] heat and 'offset': f32[B, H, W, 2],
        (dy, dx) in pixels from a pixel to its centre.
      label_format: how classes and instances are coded.
      center_threshold: lowest heat of a centre, exclusive.
      nms_kernel_px: side of the window in which a centre must be the maximum, in pixels.
      max_centers: most centres K of an image.
      stuff_area_limit: smallest area of a stuff class in pixels.
      top_k_rule: see `find_centers`.
      score_rule: the 'center_score' of an instance is the heat of the centre that its pixels are
        'assigned' to (DeepLab2), or that at its own 'centroid' (bowenc0221, detectron2).
      is_limit_void, is_rest_instance: see `merge_panoptic`.
      size: (H, W) of the result in pixels, to which the logits are enlarged without a map of all
        classes; None where they have it.
      resize: how they are enlarged, see `ops.resize.resize_bilinear`.

    Returns:
      Without an instance branch only 'panoptic', every class one segment with instance 0 whatever
      its area, 'semantic', 'class_probability', and a 'center_score' of 1 everywhere. With one:
      'panoptic': i32[B, H, W].
      'semantic': i32[B, H, W], before the majority vote.
      'instance': i32[B, H, W], 1-based row in `centers`; 0 on stuff.
      'class_probability': f32[B, H, W], probability of the class in 'semantic'.
      'center_score': f32[B, H, W], the heat that scores the pixel's instance; 0 on stuff.
      'centers': f32[B, K, 2], (y, x) in pixels.
      'center_valid': bool[B, K].

    Raises:
      ValueError: the logits have another number of classes than the label format, or a rule is
        unknown.
    """
    num_logits = outputs['semantic'].shape[-1]
    if num_logits != label_format.num_classes:
        raise ValueError(
            f"outputs['semantic'] has {num_logits} classes but the label format has "
            f'{label_format.num_classes}: use the dataset that the model was trained on'
        )
    logits = outputs['semantic'].astype(jnp.float32)
    semantic, probability = classify_pixels(logits, size or logits.shape[1:3], resize)
    if 'center' not in outputs:
        return {
            'panoptic': semantic * label_format.label_divisor,
            'semantic': semantic,
            'class_probability': probability,
            'center_score': jnp.ones_like(probability),
        }
    if score_rule not in SCORE_RULES:
        raise ValueError(f'score_rule (={score_rule!r}) must be one of {SCORE_RULES}')
    process = functools.partial(
        _process_image,
        label_format=label_format,
        center_threshold=center_threshold,
        nms_kernel_px=nms_kernel_px,
        max_centers=max_centers,
        stuff_area_limit=stuff_area_limit,
        top_k_rule=top_k_rule,
        score_rule=score_rule,
        is_limit_void=is_limit_void,
        is_rest_instance=is_rest_instance,
    )
    maps = jax.vmap(process)(semantic, outputs['center'][..., 0], outputs['offset'])
    return {**maps, 'semantic': semantic, 'class_probability': probability}


def _process_image(
    semantic,
    heatmap,
    offsets,
    *,
    label_format,
    center_threshold,
    nms_kernel_px,
    max_centers,
    stuff_area_limit,
    top_k_rule,
    score_rule,
    is_limit_void,
    is_rest_instance,
):
    centers, scores, valid = find_centers(
        heatmap.astype(jnp.float32),
        threshold=center_threshold,
        kernel_px=nms_kernel_px,
        max_centers=max_centers,
        top_k_rule=top_k_rule,
    )
    is_thing = is_in_classes(semantic, label_format.thing_classes)
    nearest = group_pixels(centers, valid, offsets.astype(jnp.float32))
    instance = jnp.where(is_thing, nearest, 0)
    panoptic = merge_panoptic(
        semantic,
        instance,
        label_format=label_format,
        max_instances=max_centers,
        stuff_area_limit=stuff_area_limit,
        is_limit_void=is_limit_void,
        is_rest_instance=is_rest_instance,
    )
    if score_rule == 'centroid':
        center_score = score_at_centroids(instance, heatmap, max_instances=max_centers)
    else:
        center_score = map_center_scores(instance, scores)
    return {
        'panoptic': panoptic,
        'instance': instance,
        'center_score': center_score,
        'centers': centers,
        'center_valid': valid,
    }
