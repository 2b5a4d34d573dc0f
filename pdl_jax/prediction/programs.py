"""Compiled programs of a predictor, one per canvas and batch size."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pdl_jax.experiment import EvaluateOptions
from pdl_jax.ops.platforms import pin_platform_of
from pdl_jax.prediction.ensemble import Member, make_inference
from pdl_jax.prediction.inference import Inference
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.runtime.progress import stage
from pdl_jax.runtime.sharding import batch_sharding
from pdl_jax.systems.system import System, Variables
from pdl_jax.typing import Array

# Compiled programs that a predictor keeps.
_MAX_PROGRAMS = 128


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs of a system on the devices of a mesh.

    Attributes:
      system: the system.
      augment: its resize and normalisation apply.
      evaluate: scales and mirror image.
      mesh: the devices, which share the images of a batch.
      num_channels: number of channels of an image.
      members: the kinds of networks of an ensemble, see `ensemble`; () for one network.
    """

    system: System
    augment: AugmentOptions
    evaluate: EvaluateOptions
    mesh: jax.sharding.Mesh
    num_channels: int
    members: tuple[Member, ...] = ()
    # Not a cache of the class: a predictor takes its programs with it.
    _kept: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the program of a key; makes it if it is not kept."""
        # The one that was used last is the last to go.
        program = self._kept.pop(key, None) or make()
        self._kept[key] = program
        if len(self._kept) > _MAX_PROGRAMS:
            del self._kept[next(iter(self._kept))]
        return program

    def make_inference(self, canvas_size: tuple[int, int]) -> Inference:
        """Makes the functions from images on canvases of a (height, width) to label maps."""
        return make_inference(self.system, self.augment, self.evaluate, canvas_size, self.members)

    def find(
        self, variables: Variables, canvas_size: tuple[int, int], num_rows: int
    ) -> jax.stages.Compiled:
        """Finds or compiles the program from images to labels.

        Args:
          variables: the system's, with or without the collection 'context'.
          canvas_size: (height, width) of the canvases in pixels.
          num_rows: size of the batch.

        Returns:
          A function of the variables, u8[B, H, W, C] and i32[B, 2], the (height, width) in pixels
          of each image, that returns i32[B, H, W], panoptic labels, and `describe_segments`.
        """
        key = canvas_size, num_rows, 'context' in variables
        return self.keep(key, lambda: self.compile(variables, canvas_size, num_rows))

    def compile(
        self, variables: Variables, canvas_size: tuple[int, int], num_rows: int
    ) -> jax.stages.Compiled:
        """Compiles the program, see `find`."""
        system = self.system
        inference = self.make_inference(canvas_size)

        def predict(
            variables: Variables, image: Array, size: Array
        ) -> tuple[Array, dict[str, Array]]:
            maps = inference.label_maps(variables, image, size)
            return maps.panoptic, system.describe_segments(maps)

        sharding = batch_sharding(self.mesh)
        shape = (num_rows, *canvas_size, self.num_channels)
        image = jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding)
        size = jax.ShapeDtypeStruct((num_rows, 2), np.int32, sharding=sharding)
        program = jax.jit(predict, out_shardings=sharding)
        with stage(f'compiling for images of up to {canvas_size[0]}x{canvas_size[1]} pixels'):
            with pin_platform_of(variables):
                lowered = program.lower(variables, image, size)
            return lowered.compile()
