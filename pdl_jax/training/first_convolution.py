"""First convolutions of initial weights, brought to another number of image channels."""

import re

import numpy as np

# Only the first convolution of a backbone sees the channels of an image; those after it have more.
_KERNEL = re.compile(r'params/backbone/.*kernel')
_MAX_CHANNELS = 64


def is_first_convolution(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...], *, num_found: int
) -> bool:
    """Returns whether two shapes are those of first convolutions for different channels.

    Args:
      name: path of the variable, 'params/...'.
      found: its shape in a checkpoint, (height, width, inputs, outputs).
      wanted: its shape in a network.
      num_found: channels that the checkpoint was trained with.
    """
    is_kernel = _KERNEL.fullmatch(name) is not None and len(found) == len(wanted) == 4
    return (
        is_kernel
        and found[:2] + found[3:] == wanted[:2] + wanted[3:]
        and found[2] == num_found
        and wanted[2] <= _MAX_CHANNELS
    )


def adapt_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Brings a kernel [h, w, C, D] to `shape`, which may differ in C; others are unchanged.

    For one channel the kernels of all channels are added up, so that a grey image gives what its
    RGB copy gave. For other numbers they are repeated in turn and scaled by the ratio of the
    numbers, which keeps the size of the sums.

    Source: `adapt_input_conv` of timm (huggingface/pytorch-image-models).
    """
    if kernel.shape == shape or len(shape) != 4:
        return kernel
    found, wanted = kernel.shape[2], shape[2]
    if wanted == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = kernel[:, :, np.arange(wanted) % found]
    return (repeated * np.float32(found / wanted)).astype(kernel.dtype)
