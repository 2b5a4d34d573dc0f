"""Losses of Panoptic-DeepLab; the semantic DeepLabs use the first."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.losses.class_weights import check_class_weights
from pdl_jax.ops.resize import resize_labels
from pdl_jax.ops.upsampled_logits import cross_entropy_upsampled
from pdl_jax.typing import Array, check_function_names, check_not_negative

SCOPES = ('image', 'batch', 'all_pixels')
SEMANTIC_SIZES = ('image', 'logits')
_SEMANTIC = 'semantic'


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Averaging and weights of the terms.

    Attributes:
      semantic_weight, center_weight, offset_weight: weights of the terms. detectron2's 0.01 for
        offsets is 0.02 here, because it divides the sum of both channels by the number of pixels.
      top_k_fraction: share of the pixels, the hardest, that count in the semantic term.
      scope: 'image' averages each image over its own pixels with a nonzero loss, then over images
        (DeepLab2). 'batch' averages over all images at once: the hardest pixels over their number,
        void ones included, centres and offsets over the sum of their weights (bowenc0221,
        detectron2). Theirs is the batch of one GPU, ours that of all devices. 'all_pixels' averages
        the semantic term as 'image', and centres and offsets over all pixels of the batch, void
        ones included (Model Garden).
      semantic_size: size of the semantic loss: 'image' upsamples the logits, 'logits' shrinks the
        labels to their size by the nearest pixel (DeepLab v1 and v2).
      class_weights: factors of the semantic loss of pixels, by their class, before the hardest
        pixels are chosen (as in bowenc0221, their sum does not divide the loss); () for none. See
        `class_weights.resolve_class_weights` for its forms.
      ponder_weight: weight of the ponder cost of a backbone with `adaptive_computation`, which is
        the sum over its stages of the mean over positions; others have none.
      extra: functions of the user as 'module:function' whose results are added, see
        `systems.deeplab.DeepLabSystem.loss`.
    """

    semantic_weight: float = 1.0
    center_weight: float = 200.0
    offset_weight: float = 0.01
    top_k_fraction: float = 0.2
    scope: str = 'image'
    semantic_size: str = 'image'
    class_weights: tuple[Any, ...] = ()
    ponder_weight: float = 0.005
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.top_k_fraction <= 1:
            raise ValueError(
                f'config.loss.top_k_fraction (={self.top_k_fraction!r}) must lie in (0, 1]'
            )
        for field, choices in (('scope', SCOPES), ('semantic_size', SEMANTIC_SIZES)):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(f'config.loss.{field} (={value!r}) must be one of {list(choices)}')
        check_class_weights(self.class_weights)
        check_not_negative('loss', self, 'ponder_weight')
        check_function_names('loss', self, 'extra')


def panoptic_loss(
    outputs: dict[str, Array],
    targets: dict[str, Array],
    *,
    ignore_label: int,
    options: LossOptions,
    resize: str = 'corner_aligned',
) -> tuple[Array, dict[str, Array]]:
    """Adds up the weighted losses.

    Args:
      outputs: 'semantic' f32[B, h, w, C] at any resolution, others like it whose names begin so, as
        a network of several stages or input scales has in training, and, from a network with an
        instance branch, 'center' f32[B, H, W, 1] and 'offset' f32[B, H, W, 2] at that of the
        targets.
      targets: maps of `preprocess.targets.make_targets`, batched.
      ignore_label: semantic value of void pixels; need not be a class.
      options: weights and the hard-pixel share.
      resize: mode of upsampling the logits, see `ops.resize.resize_bilinear`.

    Returns:
      total: f32[], a mean over the batch.
      terms: its weighted terms, each f32[], by the keys of `outputs`.
    """
    terms = {}
    for key, losses in _loss_maps(outputs, targets, ignore_label, options, resize).items():
        term = _name_term(key)
        mean = _average(losses, targets[f'{term}_weight'], term, options)
        terms[key] = getattr(options, f'{term}_weight') * mean
    return cast(Array, sum(terms.values())), terms


def image_losses(
    outputs: dict[str, Array],
    targets: dict[str, Array],
    *,
    ignore_label: int,
    options: LossOptions,
    resize: str = 'corner_aligned',
) -> dict[str, Array]:
    """Computes the weighted terms of each image as if it were a batch by itself.

    Args:
      outputs, targets, ignore_label, options, resize: see `panoptic_loss`.

    Returns:
      f32[B] by the keys of `outputs`.
    """
    terms = {}
    for key, losses in _loss_maps(outputs, targets, ignore_label, options, resize).items():
        term = _name_term(key)

        def average(losses: Array, weights: Array, term: str = term) -> Array:
            return _average(losses[None], weights[None], term, options)

        mean = jax.vmap(average)(losses, targets[f'{term}_weight'])
        terms[key] = getattr(options, f'{term}_weight') * mean
    return terms


def _name_term(output: str) -> str:
    """Names the term whose rules and weight an output has; stages and scales share one."""
    return _SEMANTIC if output.startswith(_SEMANTIC) else output


def _average(losses: Array, weights: Array, term: str, options: LossOptions) -> Array:
    """Averages the weighted losses f32[B, H, W] of one term over a batch: f32[]."""
    fraction = options.top_k_fraction if term == _SEMANTIC else 1.0
    if options.scope == 'image':
        return jnp.mean(top_k_mean(losses, fraction))
    if options.scope == 'all_pixels':
        if term != _SEMANTIC:
            return jnp.mean(losses)
        losses = losses.reshape(len(losses), -1)
        # Model Garden cuts the product in float32, and keeps the divisor from 0 by a small number.
        kept = int(np.float32(fraction) * np.float32(losses.shape[1]))
        hardest, number = _keep_hardest(losses, kept)
        return jnp.mean(jnp.sum(hardest, axis=1) / (number + 1e-5))
    if term == _SEMANTIC:
        losses = losses.reshape(1, -1)
        kept = max(1, int(fraction * losses.shape[1]))
        return jnp.sum(_keep_hardest(losses, kept)[0]) / kept
    return jnp.sum(losses) / jnp.maximum(jnp.sum(weights), 1e-6)


def _loss_maps(
    outputs: dict[str, Array],
    targets: dict[str, Array],
    ignore_label: int,
    options: LossOptions,
    resize: str,
) -> dict[str, Array]:
    """Computes the loss of each pixel, f32[B, H, W], by the keys of `outputs`."""
    maps = {}
    for key, logits in outputs.items():
        if _name_term(key) != _SEMANTIC:
            continue
        labels, weight = targets['semantic'], targets['semantic_weight']
        if options.semantic_size == 'logits':
            size = (logits.shape[1], logits.shape[2])
            labels, weight = resize_labels(labels, size), resize_labels(weight, size)
        cross_entropy: Array = cross_entropy_upsampled(logits, labels, resize)
        # Use `where`, not a mask product: inf * 0 is NaN.
        maps[key] = jnp.where(labels == ignore_label, 0.0, cross_entropy * weight)
    if 'center' in outputs:
        center = (outputs['center'][..., 0] - targets['center']) ** 2
        difference = outputs['offset'] - targets['offset']
        # Not jnp.abs, whose gradient at 0 is 1: exactly right offsets have none in the originals.
        distance = difference * jnp.sign(jax.lax.stop_gradient(difference))
        offset = jnp.mean(distance, axis=-1)
        maps['center'] = center * targets['center_weight']
        maps['offset'] = offset * targets['offset_weight']
    return maps


def top_k_mean(losses: Array, fraction: float) -> Array:
    """Averages the hardest pixels of each sample over those whose loss is not exactly zero.

    Args:
      losses: f32[B, H, W], not negative.
      fraction: share of all pixels, void ones included, that is kept; 1 keeps all.

    Returns:
      f32[B], 0 where every kept loss is zero.

    Source: DeepLab2's model/loss/base_loss.py. If pixels tie at the threshold the sum does not
    depend on which are kept; here they share the gradient evenly.
    """
    losses = losses.reshape(losses.shape[0], -1)
    losses, number = _keep_hardest(losses, round(fraction * losses.shape[1]))
    return jnp.sum(losses, axis=1) / jnp.maximum(number, 1)


def _keep_hardest(losses: Array, kept: int) -> tuple[Array, Array]:
    """Zeroes all but the `kept` hardest pixels of each row of f32[B, N].

    Returns:
      f32[B, N], and i32[B], the number of these pixels whose loss is not zero.
    """
    number = jnp.minimum(jnp.sum(losses > 0, axis=1), kept)
    if kept < losses.shape[1]:
        losses = losses * hard_pixel_mask(jax.lax.stop_gradient(losses), kept)
    return losses, number


def hard_pixel_mask(losses: Array, kept: int) -> Array:
    """Returns a mask of the largest losses.

    Args:
      losses: f32[B, N], not negative.
      kept: number of losses of a row that count, at least 1.

    Returns:
      f32[B, N], 1 on the `kept` largest losses; ties at the threshold share the rest.
    """
    threshold = _kth_largest(losses, kept)[:, None]
    above = losses > threshold
    tied = losses == threshold
    left = kept - jnp.sum(above, axis=1, keepdims=True)
    share = left / jnp.maximum(jnp.sum(tied, axis=1, keepdims=True), 1)
    return above + tied * share


def _kth_largest(values: Array, k: int) -> Array:
    """Finds the exact k-th largest of non-negative f32[B, N], two of its bits at a time.

    The bits of non-negative floats sort like integers, so 16 counts find the value without sorting
    millions of pixels.
    """
    # Rounding may leave a loss just below zero.
    bits = jax.lax.bitcast_convert_type(jnp.maximum(values, 0), jnp.uint32)
    zero = jnp.int32(0)

    def refine(i: Array, found: Array) -> Array:
        shift = (30 - 2 * i).astype(jnp.uint32)
        candidates = [found | (jnp.uint32(digit) << shift) for digit in (1, 2, 3)]
        is_reached = [(bits >= candidate[:, None]).astype(jnp.int32) for candidate in candidates]
        # Reduce the three counts in one op: XLA:CPU vectorises this but not three separate sums.
        counts = jax.lax.reduce(
            is_reached, [zero] * 3, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], [1]
        )
        digit = cast(Array, sum((count >= k).astype(jnp.uint32) for count in counts))
        return found | (digit << shift)

    found = jax.lax.fori_loop(0, 16, refine, jnp.zeros(values.shape[0], jnp.uint32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
