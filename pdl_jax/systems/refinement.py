"""The refinement of class probabilities by a CRF, for systems that have any by pixel."""

from typing import Protocol, runtime_checkable

from pdl_jax.postprocess.dense_crf import DenseCrf
from pdl_jax.systems.system import Outputs, System
from pdl_jax.typing import Array


@runtime_checkable
class RefinableSystem(Protocol):
    """A system whose outputs hold class probabilities of pixels."""

    def refine(self, outputs: Outputs, images: Array, image_size: Array, crf: DenseCrf) -> Outputs:
        """See `refine_outputs`."""
        ...


def refine_outputs(
    system: System, outputs: Outputs, images: Array, image_size: Array, crf: DenseCrf
) -> Outputs:
    """Refines the class probabilities of outputs by a CRF, at the size of the images.

    Args:
      system: the outputs' system.
      outputs: as `System.outputs` returns them, or upsampled.
      images: f32[B, H, W, C], pixels in [0, 255].
      image_size: i32[B, 2], (height, width) in pixels of the images in their top left corner.
      crf: the parameters.

    Raises:
      ValueError: the system has no class probabilities of pixels, or the program is to be a
        portable one.
    """
    if not isinstance(system, RefinableSystem):
        raise ValueError(
            f'{type(system).__name__} has no class probabilities of pixels that a CRF could '
            f"refine: set config.evaluate.crf.setting=''"
        )
    return system.refine(outputs, images, image_size, crf)
