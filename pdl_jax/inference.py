"""From an image to its panoptic map: resize, network, post-processing, and the way back to the original pixels."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pdl_jax.models.panoptic_deeplab import PanopticDeepLab
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
from pdl_jax.sharding import split_rows
from pdl_jax.typing import Array, LabelFormat, PyTree


def abstract_variables(model: PanopticDeepLab) -> dict[str, PyTree]:
    """Shapes and dtypes of {'params', 'batch_stats'}; they do not depend on the input size."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 65, 65, 3))))


@dataclasses.dataclass(frozen=True)
class Pass:
    """One run of a network over an image; several of them are averaged.

    Attributes:
      model: the network; its pooling window belongs to `size`.
      size: (height, width) in pixels to which the input is resized.
      is_flipped: whether it sees the mirror image.
    """

    model: PanopticDeepLab
    size: tuple[int, int]
    is_flipped: bool = False


def run_passes(passes: Sequence[Pass], variables: PyTree, images: Array) -> dict[str, Array]:
    """Runs a network once or, at several scales and mirrored, several times over the same images.

    Every pass is brought to the size of the images first, with its offsets in their pixels and mirrored back. Then class
    probabilities, heat and offsets are averaged.

    Args:
      passes: at least one, run one after the other so that the memory is that of one.
      variables: {'params', 'batch_stats'}, the same for all.
      images: f32[B, H, W, 3], normalised.

    Returns:
      The network's outputs f32[B, H, W, ...] at the size of the images; of several passes 'semantic' holds the logarithms of the
      mean probabilities.

    Source: DeepLab2's model/deeplab.py; Chen et al., Rethinking Atrous Convolution, 2017, for the semantic networks.
    """
    size = images.shape[1:3]
    if len(passes) == 1:
        return _run(passes[0], variables, images, size)
    total = None
    for one in passes:
        outputs = _run(one, variables, images, size)
        outputs['semantic'] = jax.nn.softmax(outputs['semantic'], axis=-1)
        total = outputs if total is None else jax.tree.map(jnp.add, total, outputs)
    mean = jax.tree.map(lambda x: x / len(passes), total)
    return {**mean, 'semantic': jnp.log(jnp.maximum(mean['semantic'], jnp.finfo(jnp.float32).tiny))}


def _run(one, variables, images, size):
    """One pass: outputs at `size`, as if the image had been neither resized nor mirrored."""
    x = split_rows(resize_bilinear(images, one.size, one.model.model.resize))
    outputs = one.model.apply(variables, x[:, :, ::-1] if one.is_flipped else x, train=False)
    if one.is_flipped:
        outputs = {key: value[:, :, ::-1] for key, value in outputs.items()}
        if 'offset' in outputs:
            outputs['offset'] = outputs['offset'] * jnp.array([1.0, -1.0])
    return split_rows(one.model.upsample(outputs, size))


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
        certain = jnp.where(semantic[..., None] == jnp.arange(label_format.num_classes), 0.0, -jnp.inf)
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
      canvas size with every image in its top-left corner: 'panoptic' i32[B, H, W] (void outside of the image), 'semantic' i32[B, H, W],
      'class_probability' f32[B, H, W], 'center_score' f32[B, H, W].
    """

    def infer(variables, image, size, panoptic=None):
        def prepare(image, size):
            resized = resize_to_range(size, augment.resize_min_px, augment.resize_max_px)
            window = centered_window(size, resized, input_size)
            image = sample_image(image, size, window, normalization=augment.normalization)
            return image, resized

        images, resized = jax.vmap(prepare)(image, size)
        outputs = run_passes(passes, variables, split_rows(images))
        if oracle:

            def resize(labels, size, resized):
                window = centered_window(size, resized, input_size)
                return sample_labels(labels, size, window, fill=label_format.void_label)

            labels = jax.vmap(resize)(panoptic, size, resized)
            outputs = replace_by_truth(outputs, labels, oracle, label_format=label_format, targets=targets)
        maps = post_process(outputs, label_format=label_format, **postprocess)
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
        return {
            key: restore_batch(maps[key], size, resized, fill) for key, fill in fills.items()
        }

    return infer
