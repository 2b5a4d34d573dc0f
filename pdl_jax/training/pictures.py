"""Pictures of fixed images of the eval split, for TensorBoard and the workdir."""

import jax
import numpy as np
from absl import logging

from pdl_jax.data.images import show_channels
from pdl_jax.data.records import RecordSource
from pdl_jax.ops.placement import replicate
from pdl_jax.prediction.inference import Inference
from pdl_jax.runtime.compiled import CompiledOnFirstCall
from pdl_jax.runtime.sharding import replicated
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array

# Enough to see a class come and go, few enough for an event file.
_NUM_IMAGES = 2


class PictureMaker:
    """Draws the same images of the eval split at every call: their labels and the predictions.

    Args:
      inference: how evaluation sees images; its system draws.
      source: the eval split.
      mesh: the devices.
    """

    def __init__(self, inference: Inference, source: RecordSource, mesh: jax.sharding.Mesh):
        self._inference = inference
        self._source = source
        self._mesh = mesh

        def compute(
            variables: Variables, image: Array, panoptic: Array, size: Array
        ) -> tuple[Array, dict[str, Array]]:
            samples = inference.prepare_samples(image, panoptic, size)
            return samples.image, inference.system.picture_maps(replicate(variables), samples)

        self._compute = CompiledOnFirstCall(
            jax.jit(compute, out_shardings=replicated(mesh)), name='the pictures'
        )

    def __call__(self, variables: Variables) -> dict[str, np.ndarray]:
        """Draws with the variables of the moment.

        Returns:
          u8[H, W, 3] pictures by name.
        """
        pictures = {}
        for index in range(min(_NUM_IMAGES, len(self._source))):
            try:
                sample = self._read(index)
            except ValueError as error:
                # A damaged image ends an evaluation, but not a run that only wants to show it.
                logging.warning('no picture: %s', error)
                continue
            with jax.set_mesh(self._mesh):
                results = self._compute(variables, *sample)
            image, maps = jax.tree.map(lambda x: x[0], jax.device_get(results))
            low, high = image.min(), image.max()
            # Stretched, because a normalised image has lost its grey levels.
            image = (255 * (image - low) / max(high - low, 1e-6)).astype(np.uint8)
            image = show_channels(image)
            drawn = self._inference.system.draw_pictures(
                maps, image, self._source.spec.make_palette()
            )
            pictures |= {f'{name}_{index}': picture for name, picture in drawn.items()}
        return pictures

    def _read(self, index: int) -> tuple[Array, Array, Array]:
        """Reads one image onto a canvas, replicated on all devices."""
        image, panoptic = self._source.decode(index)
        height, width = panoptic.shape
        canvas = self._source.max_size
        images = np.zeros((1, *canvas, image.shape[2]), np.uint8)
        labels = np.full((1, *canvas), self._source.spec.label_format.void_label, np.int32)
        images[0, :height, :width] = image
        labels[0, :height, :width] = panoptic
        sizes = np.array([[height, width]], np.int32)
        image, panoptic, size = (
            jax.make_array_from_process_local_data(replicated(self._mesh), x)
            for x in (images, labels, sizes)
        )
        return image, panoptic, size
