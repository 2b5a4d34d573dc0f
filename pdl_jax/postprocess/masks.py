"""From the masks and classes of queries to panoptic label maps, as kMaX- and MaX-DeepLab do it.

The originals paste the masks of N queries onto a canvas one after the other. Here a pixel is
reduced to the queries that may own it, of which there are at most two because their probabilities
sum to one. Counts of pairs of such queries suffice to accept or reject all masks, in tables of N
by N, and the pixels are labelled by looking up their two queries.

Sources: Yu et al., kMaX-DeepLab, ECCV 2022; Wang et al., MaX-DeepLab, CVPR 2021.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops.batching import max_of_batch
from pdl_jax.ops.placement import map_per_device
from pdl_jax.ops.resampled_logits import find_taps
from pdl_jax.ops.segments import count_pairs, lookup, segment_sum
from pdl_jax.postprocess.image_sizes import ImageSizes
from pdl_jax.postprocess.mask_options import MaskPostprocessOptions
from pdl_jax.postprocess.mask_pixels import PixelQueries, find_queries
from pdl_jax.postprocess.merge import is_in_classes
from pdl_jax.typing import Array, LabelFormat

# Below any class score that counts.
_SMALLEST = 1e-30


class _Queries(NamedTuple):
    """Class and confidence of each query of an image.

    Attributes:
      semantic: i32[N], semantic value.
      is_thing: bool[N].
      score: f32[N], probability of the class.
      is_confident: bool[N], whether that reaches the threshold of its kind.
    """

    semantic: Array
    is_thing: Array
    score: Array
    is_confident: Array


class _Segments(NamedTuple):
    """The decision about the mask of each query of an image.

    Attributes:
      rank: i32[N], place in the order of the scores.
      score: f32[N], what orders the masks.
      is_accepted: bool[N], whether it owns pixels, which no later mask gets.
      is_kept: bool[N], whether they are labelled, not void.
      instance: i32[N], instance id, 0 for stuff.
    """

    rank: Array
    score: Array
    is_accepted: Array
    is_kept: Array
    instance: Array


def label_masks(
    mask_logits: Array,
    class_logits: Array,
    *,
    label_format: LabelFormat,
    options: MaskPostprocessOptions,
    size: tuple[int, int],
    resize: str = 'corner_aligned',
    images: ImageSizes | None = None,
) -> dict[str, Array]:
    """Turns the masks and classes of N queries into panoptic label maps.

    Args:
      mask_logits: f32[B, h, w, N].
      class_logits: f32[B, N, K + 1]; channel k stands for `label_format.valid_classes[k]`, the last
        one for no object.
      label_format: how classes and instances are coded.
      options: the rules.
      size: (height, width) in pixels of the input.
      resize: how logits are resized, see `ops.resize.resize_bilinear`.
      images: the sizes of the images; None labels the whole input at its own size.

    Returns:
      'panoptic': i32[B, H, W], void outside of the images.
      'semantic': i32[B, H, W], the class with the highest expected probability.
      'class_probability': f32[B, H, W], class score of the query that owns the pixel; the expected
        probability of the class in 'semantic' where the pixel is void.
      'score': f32[B, H, W]; the convention 'pytorch' gives what makes the product of both maps the
        score class ** class_exponent * mask ** mask_exponent of a segment, and 0 where the pixel is
        void; 'deeplab2' the probability of the most likely query.

    Raises:
      ValueError: the logits do not fit the label format, or it has too few instance ids.
    """
    _check_shapes(mask_logits, class_logits, label_format)
    mask_logits = mask_logits.astype(jnp.float32)
    probability = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)[..., :-1]
    queries = _read_queries(probability, label_format, options)
    if images is None:
        whole = jnp.broadcast_to(jnp.array(size, jnp.int32), (mask_logits.shape[0], 2))
        images = ImageSizes(whole, whole, size)
    label = functools.partial(
        _label_batch,
        label_format=label_format,
        options=options,
        size=size,
        resize=resize,
        canvas=images.canvas,
    )
    # Loops over masks have lengths that depend on the images.
    return map_per_device(label)(mask_logits, probability, queries, images.resized, images.original)


def _label_batch(
    mask_logits: Array,
    probability: Array,
    queries: _Queries,
    resized: Array,
    original: Array,
    *,
    label_format: LabelFormat,
    options: MaskPostprocessOptions,
    size: tuple[int, int],
    resize: str,
    canvas: tuple[int, int],
) -> dict[str, Array]:
    rows, columns = (
        find_taps(
            (mask_logits.shape[axis + 1], size[axis], canvas[axis]),
            resize,
            resized[:, axis],
            original[:, axis],
        )
        for axis in (0, 1)
    )
    pixels = find_queries(
        mask_logits,
        probability,
        queries.is_confident if options.merge_rule == 'pixel_wise' else None,
        rows,
        columns,
        threshold=options.pixel_threshold,
        num_rows=original[:, 0],
    )
    row, column = (jnp.arange(n) < original[:, i, None] for i, n in enumerate(canvas))
    is_inside = row[:, :, None] & column[:, None, :]
    num_queries = mask_logits.shape[-1]
    pixels = pixels._replace(
        first=jnp.where(is_inside, pixels.first, num_queries),
        second=jnp.where(is_inside, pixels.second, num_queries),
    )
    label = functools.partial(_label_image, label_format=label_format, options=options)
    maps = jax.vmap(label)(mask_logits, queries, pixels)
    semantic = _to_semantic(pixels.semantic, label_format)
    return {
        'panoptic': maps['panoptic'],
        'semantic': jnp.where(is_inside, semantic, label_format.ignore_label),
        'class_probability': jnp.where(is_inside, maps['class_probability'], 0),
        'score': jnp.where(is_inside, maps['score'], 0),
    }


def _check_shapes(mask_logits: Array, class_logits: Array, label_format: LabelFormat) -> None:
    num_classes, num_queries = class_logits.shape[-1] - 1, mask_logits.shape[-1]
    if num_classes != len(label_format.valid_classes):
        raise ValueError(
            f'class_logits have {num_classes} classes but the label format has '
            f'{len(label_format.valid_classes)}: use the dataset that the model was trained on'
        )
    if num_queries != class_logits.shape[-2]:
        raise ValueError(
            f'mask_logits have {num_queries} queries but class_logits {class_logits.shape[-2]}'
        )
    if num_queries >= label_format.label_divisor:
        raise ValueError(
            f'label_divisor (={label_format.label_divisor}) must exceed the number of queries '
            f'(={num_queries}), each of which may be an instance'
        )


def _to_semantic(channel: Array, label_format: LabelFormat) -> Array:
    """Maps channels of the class logits to semantic values."""
    if label_format.ignore_label < label_format.num_classes:
        return channel + (channel >= label_format.ignore_label)
    return channel


def _read_queries(
    probability: Array, label_format: LabelFormat, options: MaskPostprocessOptions
) -> _Queries:
    semantic = _to_semantic(jnp.argmax(probability, axis=-1).astype(jnp.int32), label_format)
    is_thing = is_in_classes(semantic, label_format.thing_classes)
    score = jnp.max(probability, axis=-1)
    limit = jnp.where(is_thing, options.thing_threshold, options.stuff_threshold)
    is_strict = options.convention == 'pytorch'
    return _Queries(semantic, is_thing, score, score > limit if is_strict else score >= limit)


def _label_image(
    mask_logits: Array,
    queries: _Queries,
    pixels: PixelQueries,
    *,
    label_format: LabelFormat,
    options: MaskPostprocessOptions,
) -> dict[str, Array]:
    """Labels an image; its mask logits are needed by the convention 'deeplab2'."""
    segments = _find_segments(mask_logits, queries, pixels, options)
    num, rank = queries.score.shape[0], segments.rank
    # The last entry is for pixels without a query.
    order = jnp.concatenate([jnp.where(segments.is_accepted, rank, num), jnp.full(1, num)])
    owner = jnp.minimum(lookup(order, pixels.first), lookup(order, pixels.second))

    def read(values: Array) -> Array:
        is_rank = rank[:, None] == jnp.arange(num)
        return lookup(jnp.sum(jnp.where(is_rank, values[:, None], 0), axis=0), owner)

    is_void = read(segments.is_kept.astype(jnp.int32)) == 0
    if options.convention == 'pytorch':
        confidence = read(segments.score / jnp.maximum(queries.score, _SMALLEST))
        confidence = jnp.where(is_void, 0, confidence)
    else:
        limit = jnp.minimum(options.thing_threshold, options.stuff_threshold)
        is_any = jnp.max(queries.score) >= limit
        confidence = jnp.where(is_any, pixels.first_probability, 0)
    label = queries.semantic * label_format.label_divisor + segments.instance
    return {
        'panoptic': jnp.where(is_void, label_format.void_label, read(label)),
        'class_probability': jnp.where(is_void, pixels.semantic_probability, read(queries.score)),
        'score': confidence,
    }


def _find_segments(
    mask_logits: Array,
    queries: _Queries,
    pixels: PixelQueries,
    options: MaskPostprocessOptions,
) -> _Segments:
    """Decides about the masks of an image, from counts of pixels."""
    num = queries.score.shape[0]
    # A last row and column for pixels of fewer than two queries.
    pairs = count_pairs(pixels.first, pixels.second, num + 1, num + 1)
    areas = (jnp.sum(pairs, axis=1) + jnp.sum(pairs, axis=0))[:num]
    mask_score = _score_masks(mask_logits, pixels, areas, options)
    score = _raise(queries.score, options.class_exponent)
    score *= _raise(mask_score, options.mask_exponent)
    # [n, m] tells whether query m comes before query n.
    number = jnp.arange(num)
    is_before = (score[None] > score[:, None]) | (
        (score[None] == score[:, None]) & (number[None] < number[:, None])
    )
    rank = jnp.sum(is_before, axis=1, dtype=jnp.int32)
    if options.merge_rule == 'mask_wise':
        shared = jnp.where(is_before, pairs[:num, :num] + pairs[:num, :num].T, 0)
        is_accepted, areas = _accept(queries, areas, shared, options.overlap_threshold)
    else:
        is_accepted = queries.is_confident
    is_kept = is_accepted & _is_large(queries, is_accepted, areas, options)
    is_kept &= ~queries.is_thing | (score >= options.min_score)
    instance = _number_things(queries, is_accepted, is_before, rank, options)
    return _Segments(rank, score, is_accepted, is_kept, instance)


def _raise(base: Array, exponent: Array | float) -> Array:
    """Raises to a power, exactly where the exponent is 0 or 1, as it mostly is."""
    if isinstance(exponent, int | float) and exponent in (0, 1):
        return base if exponent else jnp.ones_like(base)
    return base**exponent


def _score_masks(
    mask_logits: Array, pixels: PixelQueries, areas: Array, options: MaskPostprocessOptions
) -> Array:
    """Returns the mean probability of each mask inside itself, 0 for empty masks: f32[N]."""
    num = mask_logits.shape[-1]
    if options.convention == 'pytorch':
        total = segment_sum(pixels.first, pixels.first_probability, num)
        total += segment_sum(pixels.second, pixels.second_probability, num)
    else:
        probability = jax.nn.softmax(mask_logits, axis=-1)
        is_inside = probability > options.pixel_threshold
        areas = jnp.sum(is_inside, axis=(0, 1), dtype=jnp.int32)
        total = jnp.sum(probability, axis=(0, 1), where=is_inside)
    return total / jnp.maximum(areas, 1).astype(jnp.float32)


def _accept(
    queries: _Queries, areas: Array, shared: Array, overlap_threshold: Array | float
) -> tuple[Array, Array]:
    """Accepts masks in the order of their scores if enough of them is left.

    A mask depends on the accepted ones before it alone. So repeating the decision for all masks at
    once settles at least one more of them per pass, and mostly all of them within a few passes.

    Args:
      queries: of N masks.
      areas: i32[N], pixels of each mask.
      shared: i32[N, N], pixels that mask n shares with a better mask m; 0 for the others.
      overlap_threshold: see `MaskPostprocessOptions`.

    Returns:
      bool[N], whether a mask is accepted, and i32[N], the pixels that better ones leave to it.
    """

    def find_left(is_accepted: Array) -> Array:
        return areas - jnp.sum(jnp.where(is_accepted, shared, 0), axis=1)

    def decide(state: tuple[Array, Array]) -> tuple[Array, Array]:
        is_accepted, _ = state
        is_enough = find_left(is_accepted) > areas.astype(jnp.float32) * overlap_threshold
        decided = queries.is_confident & is_enough
        # A settled image stays as it is while others of the batch go on.
        return decided, max_of_batch(jnp.any(decided != is_accepted).astype(jnp.int32))

    start = queries.is_confident, jnp.int32(1)
    is_accepted, _ = lax.while_loop(lambda state: state[1] > 0, decide, start)
    return is_accepted, find_left(is_accepted)


def _is_large(
    queries: _Queries, is_accepted: Array, areas: Array, options: MaskPostprocessOptions
) -> Array:
    """Tells whether things, and all masks of a stuff class together, reach the area limits."""
    is_same = queries.semantic[:, None] == queries.semantic
    together = jnp.sum(jnp.where(is_same & is_accepted, areas, 0), axis=1)
    return jnp.where(
        queries.is_thing,
        areas >= options.thing_area_limit_px,
        together >= options.stuff_area_limit_px,
    )


def _number_things(
    queries: _Queries,
    is_accepted: Array,
    is_before: Array,
    rank: Array,
    options: MaskPostprocessOptions,
) -> Array:
    """Returns the instance ids of things, from 1 on; 0 for stuff."""
    if options.convention == 'pytorch':
        is_same = queries.semantic[:, None] == queries.semantic
        number = jnp.sum(is_same & is_before & is_accepted, axis=1, dtype=jnp.int32)
    elif options.merge_rule == 'mask_wise':
        number = rank
    else:
        number = jnp.arange(rank.shape[0])
    return jnp.where(queries.is_thing, number + 1, 0)
