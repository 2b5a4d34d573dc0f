"""Losses of kMaX-DeepLab and, with semantic logits per layer, of ReMaX."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from pdl_jax.losses.mask_statistics import mask_statistics
from pdl_jax.losses.panoptic_deeplab import top_k_mean
from pdl_jax.losses.pixel_samples import (
    instance_discrimination,
    mean_of_nonzero,
    sample_pixels,
    semantic_loss,
    take_pixels,
)
from pdl_jax.losses.remask import relax_classes, relax_masks
from pdl_jax.losses.segment_queries import SegmentQueries, match_queries
from pdl_jax.ops.resize import resize_bilinear, subsample
from pdl_jax.ops.segments import lookup
from pdl_jax.typing import (
    Array,
    MaskTargets,
    check_not_negative,
    check_positive,
    check_share,
)

Terms = dict[str, Array]
# By 'mask_logits', 'class_logits', 'pixel_feature' and, in ReMaX, 'semantic_logits'.
Prediction = Mapping[str, Array]
# Noise of one prediction by what it samples: 'instance', 'semantic' (of the head beside the final
# prediction), 'relaxation' (of the semantic logits of a prediction).
Noise = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class MaskLossOptions:
    """Weights and constants of the terms.

    Attributes:
      class_weight: weight of the cross entropy of the queries' classes.
      mask_id_weight: weight of the cross entropy of the pixels' queries.
      mask_dice_weight: weight of the dice loss of the masks.
      instance_discrimination_weight: weight of the contrast of pixel features.
      semantic_weight: weight of every semantic head, that beside the network and those of ReMaX.
      matched_share: share of matched queries in the class term (alpha); others have the rest.
      contrast_temperature: divides similarities of pixel features.
      instance_samples_px: number of pixels that are contrasted.
      instance_sample_temperature: power of the inverse area by which they are drawn.
      semantic_samples_px: number of pixels of the semantic term; 0 takes all.
      semantic_sample_temperature: power of the inverse area by which they are drawn.
      semantic_top_k_fraction: share of all pixels, the hardest, that count if none are drawn.
      small_instance_weight: factor of the semantic loss on pixels of small instances.
      class_relaxation: degree eta of ReClass, for predictions with semantic logits; 0 is off.
      ponder_weight: weight of the ponder cost of a backbone with `adaptive_computation`, see
        `losses.panoptic_deeplab.LossOptions`.
      is_each_layer_matched: matches every prediction by itself, as the public program of ReMaX
        does, and not all as the final one.

    Raises:
      ValueError: names the option and its value.
    """

    class_weight: float = 3.0
    mask_id_weight: float = 0.3
    mask_dice_weight: float = 3.0
    instance_discrimination_weight: float = 1.0
    semantic_weight: float = 1.0
    matched_share: float = 0.75
    contrast_temperature: float = 0.3
    instance_samples_px: int = 4096
    instance_sample_temperature: float = 1.5
    semantic_samples_px: int = 4096
    semantic_sample_temperature: float = 2.0
    semantic_top_k_fraction: float = 1.0
    small_instance_weight: float = 1.0
    class_relaxation: float = 0.0
    ponder_weight: float = 0.005
    is_each_layer_matched: bool = False

    def __post_init__(self) -> None:
        check_positive('loss', self, 'contrast_temperature', 'instance_samples_px')
        check_positive('loss', self, 'semantic_top_k_fraction')
        check_share('loss', self, 'matched_share', 'semantic_top_k_fraction', 'class_relaxation')
        check_not_negative(
            'loss',
            self,
            'class_weight',
            'mask_id_weight',
            'mask_dice_weight',
            'instance_discrimination_weight',
            'semantic_weight',
            'instance_sample_temperature',
            'semantic_samples_px',
            'semantic_sample_temperature',
            'small_instance_weight',
            'ponder_weight',
        )


def mask_transformer_loss(
    final: Prediction,
    auxiliary: Sequence[Prediction],
    semantic: Array | None,
    targets: MaskTargets,
    *,
    num_classes: int,
    options: MaskLossOptions,
    rng: Array,
    resize: str = 'corner_aligned',
) -> tuple[Array, Terms]:
    """Adds up the weighted losses of all predictions.

    Segments are matched with queries once, on the final prediction, and every prediction learns
    that matching. Each is upsampled, and its intermediate maps are computed again, on the way back.

    Args:
      final: 'mask_logits' f32[B, h, w, N], 'class_logits' f32[B, N, K + 1] with void last,
        'pixel_feature' f32[B, h, w, D] of length 1, all maps of the targets' size.
      auxiliary: the same of inner layers, maps of any size. With 'semantic_logits'
        f32[B, h, w, K + 1] the masks, and by `class_relaxation` the classes, are relaxed, and these
        logits get a semantic loss.
      semantic: f32[B, h', w', K or K + 1], logits of the auxiliary semantic head; None without.
      targets: segments of the batch.
      num_classes: K.
      options: weights and constants.
      rng: key of the noise that draws pixels.
      resize: mode of upsampling, see `ops.resize.resize_bilinear`.

    Returns:
      total: f32[], a mean over the batch.
      terms: its weighted terms, each f32[], summed over predictions: 'class', 'mask_id',
        'mask_dice', 'instance_discrimination', 'semantic'.

    Raises:
      ValueError: `num_classes` and the class logits disagree.

    Source: Yu et al., k-means Mask Transformer, ECCV 2022, and Wang et al., MaX-DeepLab, CVPR 2021,
    section 3.2 and appendix; Sun et al., ReMaX, NeurIPS 2023.
    """
    predictions = [final, *auxiliary]
    noise = draw_noise(rng, predictions, semantic, targets)
    losses = prediction_losses(
        predictions,
        semantic,
        targets,
        num_classes=num_classes,
        options=options,
        noise=noise,
        resize=resize,
    )
    terms: Terms = {}
    for loss in losses:
        for key, value in loss.items():
            terms[key] = terms.get(key, 0.0) + getattr(options, f'{key}_weight') * value
    return jnp.sum(jnp.stack(list(terms.values()))), terms


def draw_noise(
    rng: Array, predictions: Sequence[Prediction], semantic: Array | None, targets: MaskTargets
) -> list[Noise]:
    """Draws uniform noise f32[B, pixels] in [0, 1) for every sample of pixels."""
    batch, *size = targets.segment.shape
    noise = []
    for number, prediction in enumerate(predictions):
        sizes = {'instance': size}
        if number == 0 and semantic is not None:
            sizes['semantic'] = list(semantic.shape[1:3])
        if 'semantic_logits' in prediction:
            sizes['relaxation'] = size
        keys = jax.random.split(jax.random.fold_in(rng, number), 3)
        noise.append(
            {
                name: jax.random.uniform(key, (batch, height * width))
                for key, (name, (height, width)) in zip(keys, sizes.items(), strict=False)
            }
        )
    return noise


def prediction_losses(
    predictions: Sequence[Prediction],
    semantic: Array | None,
    targets: MaskTargets,
    *,
    num_classes: int,
    options: MaskLossOptions,
    noise: Sequence[Noise],
    resize: str = 'corner_aligned',
) -> list[Terms]:
    """Computes the losses of every prediction, without their weights.

    Args:
      predictions: the final one and the auxiliary ones, see `mask_transformer_loss`.
      semantic, targets, num_classes, options, resize: see `mask_transformer_loss`.
      noise: of each prediction, see `draw_noise`.

    Returns:
      By prediction, the terms of `mask_transformer_loss` that it has, each f32[].
    """
    for prediction in predictions:
        if prediction['class_logits'].shape[-1] != num_classes + 1:
            raise ValueError(
                f'class_logits {prediction["class_logits"].shape} must have num_classes '
                f'(={num_classes}) + 1 channels'
            )
    match = None
    losses: list[Terms] = []
    for number, (prediction, uniform) in enumerate(zip(predictions, noise, strict=True)):
        if losses:
            # One prediction after the other, and in reverse order on the way back, lest the maps of
            # all be in memory at once.
            losses[-1], prediction = jax.lax.optimization_barrier((losses[-1], dict(prediction)))
        if match is None or options.is_each_layer_matched:
            match = _match(prediction, targets, resize)
        index = _sample(match, uniform['instance'], options, 'instance', _map_size(targets))

        @jax.checkpoint
        def compute(prediction: Prediction, match: SegmentQueries, index: Array) -> Terms:
            return _layer_losses(prediction, match, index, targets, options, resize)

        terms = compute(prediction, match, index)
        if number == 0 and semantic is not None:
            terms['semantic'] = _semantic_loss(
                semantic, match, targets, uniform.get('semantic'), options
            )
        if 'semantic_logits' in prediction:

            @jax.checkpoint
            def relaxation(logits: Array, match: SegmentQueries, uniform: Array) -> Array:
                logits = resize_bilinear(logits, _map_size(targets), resize)
                return _semantic_loss(logits, match, targets, uniform, options)

            loss = relaxation(prediction['semantic_logits'], match, uniform['relaxation'])
            terms['semantic'] = terms.get('semantic', 0.0) + loss
        losses.append(terms)
    return losses


def _map_size(targets: MaskTargets) -> tuple[int, int]:
    return targets.segment.shape[1], targets.segment.shape[2]


def _match(prediction: Prediction, targets: MaskTargets, resize: str) -> SegmentQueries:
    masks, _ = _upsampled_masks(prediction, targets, resize)
    return match_queries(masks, prediction['class_logits'], targets)


def _upsampled_masks(
    prediction: Prediction, targets: MaskTargets, resize: str
) -> tuple[Array, Array]:
    """Returns mask logits of the targets' size, relaxed by semantic logits if any, and as given."""
    size = _map_size(targets)
    given: Array = resize_bilinear(prediction['mask_logits'].astype(jnp.float32), size, resize)
    if 'semantic_logits' not in prediction:
        return given, given
    semantic: Array = resize_bilinear(prediction['semantic_logits'], size, resize)
    return relax_masks(given, prediction['class_logits'], semantic), given


def _layer_losses(
    prediction: Prediction,
    match: SegmentQueries,
    index: Array,
    targets: MaskTargets,
    options: MaskLossOptions,
    resize: str,
) -> Terms:
    """Computes the terms of one prediction; `index` i32[B, S] are the pixels to contrast."""
    masks, given = _upsampled_masks(prediction, targets, resize)
    class_logits = prediction['class_logits'].astype(jnp.float32)
    num_queries, void = class_logits.shape[1], class_logits.shape[2] - 1
    cross_entropy, total, overlap = mask_statistics(masks, match.owner)
    dice = 1 - (2 * overlap + 1) / (total + match.area + 1)
    scale = options.matched_share / num_queries

    labels = jax.nn.one_hot(match.label, void + 1, dtype=jnp.float32)
    if 'semantic_logits' in prediction and options.class_relaxation > 0:
        labels = relax_classes(labels, given, targets.semantic, eta=options.class_relaxation)
    share = options.matched_share * (1 - labels[..., void])
    share = share + (1 - options.matched_share) * labels[..., void]
    entropy = -jnp.sum(labels * jax.nn.log_softmax(class_logits), axis=-1)

    feature = prediction['pixel_feature'].astype(jnp.float32)
    features = jax.vmap(take_pixels)(resize_bilinear(feature, _map_size(targets), resize), index)
    contrast = jax.vmap(
        lambda features, owner: instance_discrimination(
            features, owner, num=num_queries, temperature=options.contrast_temperature
        )
    )(features, jax.vmap(take_pixels)(match.owner, index))
    return {
        'class': jnp.mean(mean_of_nonzero(match.class_weight * share * entropy)),
        'mask_id': jnp.mean(mean_of_nonzero(cross_entropy)),
        'mask_dice': jnp.mean(jnp.sum(match.mask_weight * dice, axis=-1)) * scale,
        'instance_discrimination': jnp.mean(contrast),
    }


def _semantic_loss(
    logits: Array,
    match: SegmentQueries,
    targets: MaskTargets,
    uniform: Array | None,
    options: MaskLossOptions,
) -> Array:
    """Averages the cross entropy of semantic logits f32[B, h', w', C] at their own resolution."""
    size = logits.shape[1], logits.shape[2]
    semantic, segment = (subsample(x, size) for x in (targets.semantic, targets.segment))
    weight = jnp.ones(semantic.shape, jnp.float32)
    if options.small_instance_weight != 1:
        extra = (options.small_instance_weight - 1) * targets.is_small
        weight = weight + jax.vmap(lookup)(extra, segment)
    index = None
    if options.semantic_samples_px and uniform is not None:
        index = _sample(match, uniform, options, 'semantic', size)
    return semantic_loss(
        logits.astype(jnp.float32),
        semantic,
        weight,
        index,
        lambda losses: top_k_mean(losses, options.semantic_top_k_fraction),
    )


def _sample(
    match: SegmentQueries,
    uniform: Array,
    options: MaskLossOptions,
    kind: str,
    size: tuple[int, int],
) -> Array:
    """Draws the pixels of a loss from maps of a size, i32[B, S]."""

    def draw(log_share: Array, owner: Array, uniform: Array) -> Array:
        return sample_pixels(
            log_share,
            owner < 0,
            uniform,
            count=getattr(options, f'{kind}_samples_px'),
            temperature=getattr(options, f'{kind}_sample_temperature'),
        )

    log_share, owner = (subsample(x, size) for x in (match.log_share, match.owner))
    return jax.vmap(draw)(log_share, owner, uniform)
