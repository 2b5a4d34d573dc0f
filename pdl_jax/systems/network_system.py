"""Systems of one convolutional network with a decoder behind its backbone."""

import dataclasses
from typing import Any, Self, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.models.adaptive_computation import COLLECTION
from pdl_jax.models.any_network import make_module
from pdl_jax.systems.computation import Computation, measure_computation
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.pixel_grid import PixelGrid
from pdl_jax.systems.system import Outputs, System, Variables
from pdl_jax.typing import Array, PyTree

# Smallest input that every network takes; shapes of variables do not depend on the input.
_INIT_SIZE = (65, 65)


@dataclasses.dataclass(frozen=True)
class NetworkSystem(System):
    """A system that runs `network` with `train` off and on.

    Attributes:
      options: what the configuration decides.
      scale: factor by which its images are resized; the window of the ASPP's pooling scales along.
    """

    options: NetworkSystemOptions
    scale: float = 1.0

    @property
    def network(self) -> nn.Module:
        """The flax module."""
        options = self.options
        return make_module(
            self.num_classes,
            options.model,
            self.pool_crop,
            dtype=options.compute_dtype,
            freeze_backbone_norm=options.freeze_backbone_norm,
        )

    @property
    def num_classes(self) -> int:
        """The classes that the network predicts, see `make_module`."""
        return self.label_format.num_classes

    @property
    def grid(self) -> PixelGrid:
        """See `System.grid`."""
        model: Any = self.options.model
        return PixelGrid(model.backbone.output_stride, model.resize == 'corner_aligned')

    @property
    def pool_crop(self) -> tuple[int, int]:
        """The (height, width) in image pixels of the window that the ASPP averages over."""
        crop = self.options.crop_size
        return crop if self.scale == 1 else self.grid.scale(crop, self.scale)

    def at_scale(self, factor: float) -> Self:
        """See `System.at_scale`."""
        return dataclasses.replace(self, scale=factor)

    def init(self, rng: Array) -> Variables:
        """See `System.init`."""
        return dict(self.network.init(rng, jnp.zeros((1, *_INIT_SIZE, self.options.num_channels))))

    def outputs(self, variables: Variables, images: Array) -> Outputs:
        """See `System.outputs`."""
        return cast(Outputs, self.network.apply(variables, images, train=False))

    def context_features(self, variables: Variables, images: Array) -> PyTree:
        """See `System.context_features`."""
        _, collections = self.network.apply(variables, images, train=False, mutable=['context'])
        return dict(collections).get('context', {})

    @property
    def is_adaptive(self) -> bool:
        """See `System.is_adaptive`."""
        return bool(self.options.model.backbone.adaptive_computation)

    def measure_computation(self, variables: Variables, images: Array) -> Computation:
        """See `System.measure_computation`."""
        return measure_computation(self.network, variables, images, resize=self.grid.resize)

    def ponder_maps(self, variables: Variables, images: Array) -> dict[str, Array]:
        """Computes what pictures show of an adaptive network: 'ponder' f32[B, H, W]."""
        if not self.is_adaptive:
            return {}
        return {'ponder': self.measure_computation(variables, images).ponder}

    def train_outputs(
        self, variables: Variables, images: Array, rng: Array
    ) -> tuple[Outputs, Array | None, Variables]:
        """Runs the network in training.

        Returns:
          The outputs, the sum f32[] of the losses that modules sow (`self.sow('losses', ...)`) or
          None if none does, and the updated collections.
        """
        outputs, updates = self.network.apply(
            variables,
            images,
            train=True,
            rngs={'dropout': rng},
            mutable=['batch_stats', 'losses', COLLECTION],
        )
        updates = dict(updates)
        sown = jax.tree.leaves(updates.pop('losses', {}))
        return cast(Outputs, outputs), cast(Array, sum(sown)) if sown else None, updates
