"""Prediction of what strangers upload: bounded, and answered by results or one clear sentence."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import jax

from pdl_jax.prediction.image_files import read_image
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult


@dataclasses.dataclass(frozen=True)
class UploadLimits:
    """Bounds of what a service takes.

    Attributes:
      max_bytes: largest file.
      max_pixels: most pixels of an image; larger ones are refused before they are decoded.
      max_waiting: most requests that wait for the one that is predicted.
    """

    max_bytes: int = 2**25
    max_pixels: int = 16 * 10**6
    max_waiting: int = 128

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ValueError(f'{field.name} (={value}) must be at least 1')


def predict_upload(
    predictor: Predictor, path: str, limits: UploadLimits, *, keep_outputs: bool = False
) -> PanopticResult:
    """Predicts an image file that a stranger sent.

    Args:
      predictor: the network.
      path: the file on this machine; its name is the stranger's.
      limits: what is refused.
      keep_outputs: see `Predictor.__call__`; systems without centres and offsets have none.

    Raises:
      ValueError: the file is no image or damaged, or the image too large; the message tells the
        stranger, and does not tell folders of this machine.
    """
    name = os.path.basename(path)
    with _worded_for_strangers(path, name):
        values = read_image(
            path, predictor.pixels, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels
        )
        result = predictor(values, keep_outputs=keep_outputs and not predictor.is_semantic)
    return dataclasses.replace(result, name=name)


@contextlib.contextmanager
def _worded_for_strangers(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(path, name)) from error
    except OSError as error:
        raise ValueError(f'{name} cannot be read: upload it again') from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        # XLA's own message lists buffers.
        raise ValueError(f'{name} does not fit into the memory: shrink it') from error
