"""From an image to its panoptic map: resize, network, post-processing, and the way back to the original pixels."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.models.deeplab import PanopticDeepLab
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    centered_window,
    resize_to_range,
    sample_image,
    sample_labels,
)
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.typing import Array, LabelFormat, PyTree


def abstract_variables(model: PanopticDeepLab) -> dict[str, PyTree]:
    """Shapes and dtypes of {'params', 'batch_stats'}; they do not depend on the input size."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))


@dataclasses.dataclass(frozen=True)
class Pass:
    """How a network looks at an image; the outputs of several passes are averaged.

    Attributes:
      model: the network; its pooling window belongs to `size`.
      size: (height, width) in pixels to which the input is resized.
      is_flipped: whether it looks at the mirror image too.
    """

    model: PanopticDeepLab
    size: tuple[int, int]
    is_flipped: bool = False


def run_passes(
    passes: Sequence[Pass], variables: PyTree, images: Array, *, is_semantic_enlarged: bool = True
) -> dict[str, Array]:
    """Runs a network once or, at several scales and mirrored, several times over the same images.

    Every pass is brought to the size of the images first, with its offsets in their pixels and mirrored back. Then class
    probabilities, heat and offsets are averaged.

    Args:
      passes: at least one.
      variables: {'params', 'batch_stats'}, the same for all.
      images: f32[B, H, W, 3], normalised.
      is_semantic_enlarged: false leaves the logits of a single pass as small as the network gives them, for `post_process` to
        enlarge.

    Returns:
      The network's outputs f32[B, H, W, ...] at the size of the images; of several passes 'semantic' holds the logarithms of the
      mean probabilities.

    Source: DeepLab2's model/deeplab.py; Chen et al., Rethinking Atrous Convolution, 2017, for the semantic networks.
    """
    if len(passes) == 1 and not passes[0].is_flipped:
        return _look(passes[0], variables, images, False, is_semantic_enlarged)

    def look(one, is_flipped):
        outputs = _look(one, variables, images, is_flipped, True)
        return {**outputs, 'semantic': jax.nn.softmax(outputs['semantic'], axis=-1)}

    def add(one, total, is_flipped):
        return jax.tree.map(jnp.add, total, look(one, is_flipped)), None

    shapes = jax.eval_shape(functools.partial(look, passes[0], False))
    total = split_rows(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    for one in passes:
        # A loop and a barrier keep the maps of one pass in memory at a time; in the loop the mirror image also shares the
        # compiled network.
        flips = np.array([False, True] if one.is_flipped else [False])
        total, _ = jax.lax.scan(functools.partial(add, one), total, flips)
        total = jax.lax.optimization_barrier(total)
    count = sum(2 if one.is_flipped else 1 for one in passes)
    mean = jax.tree.map(lambda x: x / count, total)
    return {**mean, 'semantic': jnp.log(jnp.maximum(mean['semantic'], jnp.finfo(jnp.float32).tiny))}


def _look(one, variables, images, is_flipped, is_semantic_enlarged):
    """The outputs of one pass for the image or the mirror image, as if it had been neither resized nor mirrored."""

    def mirror(x):
        return jnp.where(is_flipped, x[:, :, ::-1], x)

    x = split_rows(mirror(resize_bilinear(images, one.size, one.model.model.resize)))
    outputs = jax.tree.map(mirror, one.model.apply(variables, x, train=False))
    if 'offset' in outputs:
        outputs['offset'] = outputs['offset'] * jnp.where(is_flipped, jnp.array([1.0, -1.0]), 1.0)
    size = images.shape[1:3]
    if is_semantic_enlarged:
        return split_rows(one.model.upsample(outputs, size))
    return {**outputs, **split_rows(one.model.upsample_instances(outputs, size))}


def replace_by_truth(
    outputs: dict[str, Array],
    panoptic: Array,
    oracle: Sequence[str],
    *,
    label_format: LabelFormat,
    targets: TargetOptions,
) -> dict[str, Array]:
    """Puts the ground truth in the place of some outputs, to see what the others cost.

    Args:
      outputs: of the network at the size of `panoptic`.
      panoptic: i32[B, H, W], the label map as the network saw the image.
      oracle: which of 'semantic', 'center' and 'offset' are replaced. Where the label is void the prediction stays.
      label_format: how classes and instances are coded.
      targets: how the true centres and offsets are made.

    Source: Cheng et al., Panoptic-DeepLab technical report, table 2.
    """
    make = functools.partial(make_targets, label_format=label_format, options=targets)
    truth = jax.vmap(make)(panoptic)
    outputs = dict(outputs)
    if 'semantic' in oracle:
        semantic = panoptic // label_format.label_divisor
        certain = jnp.where(
            semantic[..., None] == jnp.arange(label_format.num_classes), 0.0, -jnp.inf
        )
        is_void = (semantic == label_format.ignore_label)[..., None]
        outputs['semantic'] = jnp.where(is_void, outputs['semantic'], certain)
    if 'center' in oracle:
        outputs['center'] = truth['center'][..., None]
    if 'offset' in oracle:
        outputs['offset'] = truth['offset']
    return outputs


def make_inference_step(
    passes: Sequence[Pass],
    *,
    label_format: LabelFormat,
    augment: AugmentOptions,
    postprocess: dict[str, Any],
    input_size: tuple[int, int],
    oracle: Sequence[str] = (),
    targets: TargetOptions | None = None,
) -> Callable[[PyTree, Array, Array], dict[str, Array]]:
    """Makes the pure function that evaluation and prediction share; to be jitted.

    Args:
      passes: how the network is run.
      label_format: how classes and instances are coded.
      augment: its resize and normalisation apply; its random parts do not.
      postprocess: keyword arguments of `post_process`.
      input_size: (height, width) of the network input in pixels; images are padded to it at the bottom and right.
      oracle, targets: see `replace_by_truth`.

    Returns:
      (variables, image u8[B, H, W, 3] on a canvas, size i32[B, 2], with an oracle also panoptic i32[B, H, W]) -> maps at the
      canvas size with every image in its top-left corner: 'panoptic' i32[B, H, W] (void outside of the image), 'semantic'
      i32[B, H, W], 'class_probability' f32[B, H, W], 'center_score' f32[B, H, W].
    """

    def infer(variables, image, size, panoptic=None):
        def prepare(image, size):
            resized = resize_to_range(size, augment.resize_min_px, augment.resize_max_px)
            window = centered_window(size, resized, input_size)
            image = sample_image(image, size, window, normalization=augment.normalization)
            return image, resized

        images, resized = jax.vmap(prepare)(image, size)
        outputs = run_passes(
            passes, variables, split_rows(images), is_semantic_enlarged=bool(oracle)
        )
        if oracle:

            def resize(labels, size, resized):
                window = centered_window(size, resized, input_size)
                return sample_labels(labels, size, window, fill=label_format.void_label)

            labels = jax.vmap(resize)(panoptic, size, resized)
            outputs = replace_by_truth(
                outputs, labels, oracle, label_format=label_format, targets=targets
            )
        maps = post_process(
            outputs,
            label_format=label_format,
            size=input_size,
            resize=passes[0].model.model.resize,
            **postprocess,
        )
        canvas = image.shape[1:3]

        def restore(labels, size, resized, fill):
            window = centered_window(resized, size, canvas)
            return sample_labels(labels, resized, window, fill=fill)

        fills = {
            'panoptic': label_format.void_label,
            'semantic': label_format.ignore_label,
            'class_probability': 0.0,
            'center_score': 0.0,
        }
        restore_batch = jax.vmap(restore, in_axes=(0, 0, 0, None))
        return {key: restore_batch(maps[key], size, resized, fill) for key, fill in fills.items()}

    return infer
