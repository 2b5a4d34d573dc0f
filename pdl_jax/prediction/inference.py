"""From an image to its label map: resize, passes of a system, and the way back to original pixels.

Evaluation, prediction, plans and exports run these pure functions and no others.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pdl_jax.experiment import EvaluateOptions
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    Window,
    centered_window,
    sample_image,
    sample_labels,
    scale_size,
)
from pdl_jax.preprocess.normalize import ChannelStatistics, Normalization
from pdl_jax.systems.refinement import refine_outputs
from pdl_jax.systems.system import (
    Averaging,
    LabelMaps,
    Outputs,
    Samples,
    System,
    Variables,
    image_size,
)
from pdl_jax.typing import Array

# Pixels in [0, 255], as they are.
_AS_GIVEN = ChannelStatistics((0.0,), (1.0,))


@dataclasses.dataclass(frozen=True)
class Pass:
    """One look of a system at an image; the outputs of several passes are averaged.

    Attributes:
      system: the system at the scale of the pass.
      size: (height, width) in pixels to which the input is resized.
      is_flipped: whether the mirror image is looked at too.
    """

    system: System
    size: tuple[int, int]
    is_flipped: bool = False


def make_passes(
    system: System, size: tuple[int, int], evaluate: EvaluateOptions
) -> tuple[Pass, ...]:
    """Makes the passes over an input of `size` (height, width) in pixels.

    Raises:
      ValueError: several passes are asked for and the system has no average.
    """
    if system.averaging is None and (evaluate.scales != (1.0,) or evaluate.is_flipped):
        raise ValueError(
            f'{type(system).__name__} cannot average over scales or the mirror image: set '
            f'config.evaluate.scales=(1.0,) and config.evaluate.is_flipped=False'
        )
    return tuple(
        Pass(system, size, evaluate.is_flipped)
        if scale == 1
        else Pass(system.at_scale(scale), system.grid.scale(size, scale), evaluate.is_flipped)
        for scale in evaluate.scales
    )


def run_passes(
    passes: Sequence[Pass], variables: Variables, images: Array, *, is_partial: bool = True
) -> Outputs:
    """Runs a system once or, at several scales and mirrored, several times over the same images.

    The outputs of several passes are brought to the size of the images, mirrored back, and
    averaged as `System.averaging` says.

    Args:
      passes: at least one.
      variables: the same for all.
      images: f32[B, H, W, 3], normalised.
      is_partial: leave a single pass's outputs at the network's stride where `label_maps` upsamples
        them on the way.

    Returns:
      The outputs at the size of the images.
    """
    if len(passes) == 1 and not passes[0].is_flipped:
        return _look(passes[0], variables, images, False, is_partial)
    averaging = find_averaging(passes)
    return averaging.from_mean(average_passes(passes, variables, images))


def average_passes(passes: Sequence[Pass], variables: Variables, images: Array) -> Outputs:
    """Averages the outputs of passes, see `run_passes`.

    Returns:
      Means at the size of the images, in the form of `Averaging.to_mean`.
    """
    averaging = find_averaging(passes)

    def look(one: Pass, is_flipped: ArrayLike) -> Outputs:
        return averaging.to_mean(_look(one, variables, images, is_flipped, False))

    if len(passes) == 1 and not passes[0].is_flipped:
        return look(passes[0], False)

    def add(one: Pass, total: Outputs, is_flipped: Array) -> tuple[Outputs, None]:
        return jax.tree.map(jnp.add, total, look(one, is_flipped)), None

    shapes = eval_shape(functools.partial(look, passes[0], False))
    total = split_rows(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    for one in passes:
        # A loop and a barrier keep the maps of one pass in memory at a time; in the loop the
        # mirror image also shares the compiled network.
        flips: Any = np.array([False, True] if one.is_flipped else [False])
        total, _ = jax.lax.scan(functools.partial(add, one), total, flips)
        total = jax.lax.optimization_barrier(total)
    count = sum(2 if one.is_flipped else 1 for one in passes)
    return jax.tree.map(lambda x: x / count, total)


def find_averaging(passes: Sequence[Pass]) -> Averaging:
    """Returns the average of a system's outputs.

    Raises:
      ValueError: it has none.
    """
    averaging = passes[0].system.averaging
    if averaging is None:
        raise ValueError(f'{type(passes[0].system).__name__} has no average over passes')
    return averaging


def _look(
    one: Pass, variables: Variables, images: Array, is_flipped: ArrayLike, is_partial: bool
) -> Outputs:
    """Runs one pass over the image or its mirror image; outputs as if it had been neither."""
    system = one.system
    averaging = system.averaging
    resized: Array = resize_bilinear(images, one.size, system.grid.resize)
    if averaging is None:
        outputs = system.outputs(variables, split_rows(resized))
    else:
        x = split_rows(jnp.where(is_flipped, resized[:, :, ::-1], resized))
        outputs = averaging.mirror(system.outputs(variables, x), is_flipped)
    return system.upsample(outputs, image_size(images), is_partial=is_partial)


@dataclasses.dataclass(frozen=True)
class Inference:
    """A system on canvases of images of any size.

    Attributes:
      system: the system.
      augment: its resize and normalisation apply; its random parts do not.
      evaluate: scales, mirror image, CRF and oracle.
      input_size: (height, width) of the network input in pixels; images are padded to it at the
        bottom and right.
    """

    system: System
    augment: AugmentOptions
    evaluate: EvaluateOptions
    input_size: tuple[int, int]

    @classmethod
    def for_images(
        cls,
        system: System,
        augment: AugmentOptions,
        evaluate: EvaluateOptions,
        max_size: tuple[int, int],
    ) -> 'Inference':
        """Makes the inference whose input holds images of at most `max_size` (height, width)."""
        return cls(system, augment, evaluate, find_input_size(system, augment, max_size))

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes over one input."""
        return make_passes(self.system, self.input_size, self.evaluate)

    @property
    def is_adaptive(self) -> bool:
        """Whether the computation that the image decides on can be measured."""
        return self.system.is_adaptive

    @property
    def is_partial(self) -> bool:
        """Whether outputs that `label_maps` upsamples on the way stay at the network's stride."""
        return not self.evaluate.oracle

    def prepare(self, image: Array, size: Array) -> tuple[Array, Array]:
        """Resizes and normalises images.

        Args:
          image: u8[B, H, W, 3], on a canvas.
          size: i32[B, 2], (height, width) of each image in pixels; i32[2] if all have the same.

        Returns:
          f32[B, h, w, 3] of `input_size`, and the (height, width) of the resized images, as `size`.
        """
        return self._prepare(image, size, self.augment.normalization)

    def _prepare(
        self, image: Array, size: Array, normalization: Normalization
    ) -> tuple[Array, Array]:
        def prepare_one(image: Array, size: Array) -> tuple[Array, Array]:
            resized = self.resized(size)
            window = self._place(size, resized, self.input_size)
            return sample_image(image, size, window, normalization=normalization), resized

        return jax.vmap(prepare_one, in_axes=(0, _axis(size)), out_axes=(0, _axis(size)))(
            image, size
        )

    def prepare_labels(self, panoptic: Array, size: Array) -> Array:
        """Resizes i32[B, H, W] label maps like `prepare`; void outside of the image."""

        def prepare_one(labels: Array, size: Array) -> Array:
            window = self._place(size, self.resized(size), self.input_size)
            return sample_labels(labels, size, window, fill=self.system.label_format.void_label)

        return jax.vmap(prepare_one)(panoptic, size)

    def prepare_samples(self, image: Array, panoptic: Array, size: Array) -> Samples:
        """Prepares images and label maps on canvases."""
        images, _ = self.prepare(image, size)
        return Samples(split_rows(images), self.prepare_labels(panoptic, size))

    def label_maps(
        self, variables: Variables, image: Array, size: Array, panoptic: Array | None = None
    ) -> LabelMaps:
        """Labels images.

        Args:
          variables: the system's.
          image: u8[B, H, W, 3], on a canvas.
          size: i32[B, 2], (height, width) of each image in pixels; i32[2] if all have the same.
          panoptic: i32[B, H, W], the truth, needed by an oracle.

        Returns:
          Maps at the canvas size, every image in its top-left corner, void outside of it.
        """
        outputs = self.outputs(variables, image, size, panoptic)
        return self.label_outputs(outputs, size, canvas=image_size(image))

    def outputs(
        self, variables: Variables, image: Array, size: Array, panoptic: Array | None = None
    ) -> Outputs:
        """Runs the system and the CRF, or puts the truth in place of outputs; see `label_maps`."""
        outputs = self.run(variables, image, size)
        if crf := self.evaluate.crf.resolve():
            pixels, resized = self._prepare(image, size, _AS_GIVEN)
            image_size = jnp.broadcast_to(resized, (image.shape[0], 2))
            outputs = refine_outputs(self.system, outputs, pixels, image_size, crf)
        if not self.evaluate.oracle:
            return outputs
        if panoptic is None:
            raise ValueError('an oracle needs the panoptic labels of the images')
        labels = self.prepare_labels(panoptic, size)
        return self.system.replace_by_truth(outputs, labels, self.evaluate.oracle)

    def run(self, variables: Variables, image: Array, size: Array) -> Outputs:
        """Runs the system on images, see `label_maps`; outputs at the size of its input."""
        images, _ = self.prepare(image, size)
        return run_passes(self.passes, variables, split_rows(images), is_partial=self.is_partial)

    def label_outputs(self, outputs: Outputs, size: Array, *, canvas: tuple[int, int]) -> LabelMaps:
        """Labels images from what `outputs` returns.

        Args:
          outputs: the outputs of the network for a batch.
          size: see `label_maps`.
          canvas: (height, width) of the maps in pixels.

        Returns:
          See `label_maps`.
        """
        resized = jax.vmap(self.resized)(size) if size.ndim == 2 else self.resized(size)
        num_images = jax.tree.leaves(outputs)[0].shape[0]
        image_size = jnp.broadcast_to(resized, (num_images, 2))
        maps = self.system.label_original_maps(
            outputs,
            size=self.input_size,
            image_size=image_size,
            original_size=jnp.broadcast_to(size, (num_images, 2)),
            canvas=canvas,
        )
        if maps is None:
            maps = self.system.label_padded_maps(
                outputs, size=self.input_size, image_size=image_size
            )
            maps = self._restore(maps, size, resized, canvas)
        return self.system.filter_segments(maps)

    def _restore(
        self, maps: LabelMaps, size: Array, resized: Array, canvas: tuple[int, int]
    ) -> LabelMaps:
        """Resizes maps of the input to the images' own size."""

        def restore(labels: Array, size: Array, resized: Array, fill: ArrayLike) -> Array:
            window = self._place(resized, size, canvas)
            return sample_labels(labels, resized, window, fill=fill)

        axis = _axis(size)
        restore_batch = jax.vmap(restore, in_axes=(0, axis, axis, None))
        label_format = self.system.label_format
        fills = (label_format.void_label, label_format.ignore_label, 0.0, 0.0)
        return LabelMaps(
            *(restore_batch(x, size, resized, fill) for x, fill in zip(maps, fills, strict=True))
        )

    def resized(self, size: Array) -> Array:
        """Returns the (height, width) in pixels, i32[2], that images of i32[2] are resized to."""
        return scale_size(size, self.augment)

    def _place(self, size: Array, resized: Array, out_size: tuple[int, int]) -> Window:
        return centered_window(size, resized, out_size, self.augment.convention)


def _axis(size: Array) -> int | None:
    """Returns the batch axis of sizes; None for one size of all images."""
    return 0 if size.ndim == 2 else None


def find_input_size(
    system: System, augment: AugmentOptions, max_size: tuple[int, int]
) -> tuple[int, int]:
    """Finds the network input that holds every image of at most `max_size` after the resize.

    A network that sees a part of the image has that of its training crops.

    Args:
      system: gives the grid of input sizes.
      augment: gives the resize.
      max_size: largest (height, width) of the images in pixels.
    """
    if augment.is_part:
        return augment.crop_size
    limit = augment.resize_max_px
    return system.grid.fit((limit, limit) if limit else max_size)


def abstract_variables(system: System) -> Variables:
    """Returns shapes and dtypes of a system's variables; they do not depend on the input size."""
    return eval_shape(lambda: system.init(jax.random.key(0)))
