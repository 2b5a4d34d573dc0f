"""Single operations in PyTorch, channels last."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.inputs import HARDEST_FRACTION, find_result_size
from benchmarks.peers.running import find_device, make_program
from benchmarks.program import Program, Setup


def prepare(setup: Setup) -> Program:
    """Makes the operation, in bfloat16 if `setup.mode` contains 'bf16'."""
    arguments = setup.arguments
    device = find_device(setup)
    dtype = (
        torch.bfloat16
        if 'bf16' in setup.mode and arguments['operation'] != 'hardest_pixels'
        else torch.float32
    )

    def load(name):
        value = torch.from_numpy(setup.load(name)).to(device, dtype)
        # The files hold [B, H, W, C], and kernels [k, k, C, D].
        if value.ndim == 4:
            value = value.permute(3, 2, 0, 1) if name == 'kernel' else value.permute(0, 3, 1, 2)
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    operands = {
        name: load(name).requires_grad_(arguments['has_gradient'])
        for name in ('x', 'kernel')
        if name in setup.files
    }
    operation = make_operation(arguments)
    cotangent = load('cotangent') if arguments['has_gradient'] else None

    def run():
        y = operation(**operands)
        if cotangent is None:
            return {'y': y}
        gradients = torch.autograd.grad(y, list(operands.values()), cotangent)
        return {
            'y': y,
            **{f'{name}_gradient': value for name, value in zip(operands, gradients, strict=True)},
        }

    return make_program(
        run,
        arguments=[operands, {} if cotangent is None else cotangent],
        device=device,
        get_outputs=_to_arrays,
    )


def make_operation(arguments: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """Makes the function from operands to the result."""
    name = arguments['operation']
    if name == 'max_pool':
        return lambda x: F.max_pool2d(x, 3, 2, 1)
    if name == 'resize':
        size = find_result_size(arguments)
        return lambda x: F.interpolate(x, size, mode='bilinear', align_corners=True)
    if name == 'hardest_pixels':
        return lambda x: torch.topk(x.flatten(), round(HARDEST_FRACTION * x.numel())).values.mean()
    stride, dilation = arguments['stride'], arguments['dilation']
    padding = dilation * (arguments['kernel'] // 2)
    groups = arguments['channels'] if name == 'depthwise' else 1
    return lambda x, kernel: F.conv2d(x, kernel, None, stride, padding, dilation, groups)


def _to_arrays(outputs):
    arrays = {}
    for name, value in outputs.items():
        if value.ndim == 4:
            value = (
                value.permute(2, 3, 1, 0)
                if name.startswith('kernel')
                else value.permute(0, 2, 3, 1)
            )
        arrays[name] = value.detach().float().cpu().numpy()
    return arrays
