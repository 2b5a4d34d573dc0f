"""Inference in PyTorch, channels last: eager or compiled, float32 or bfloat16.

With a scene among the inputs it includes post-processing.
"""

import contextlib
import functools
import os
from collections.abc import Callable

import numpy as np
import torch
import torch._inductor.config
from torch import nn

from benchmarks.inputs import BLEND, HEADS
from benchmarks.peers.postprocess import merge_voids, post_process
from benchmarks.peers.running import find_device, make_program
from benchmarks.program import Program, Setup
from benchmarks.torch_networks.bowenc0221 import Bowenc0221
from benchmarks.torch_networks.bowenc0221_backbones import ResNet
from benchmarks.torch_networks.deeplab2 import DeepLab2, MobileNetV3Large, Xception71
from benchmarks.torch_networks.weights import STATISTICS_SIZE, draw_weights

_RESNET50 = (3, 4, 6, 3)
# By preset: (crop, classes) -> network.
_NETWORKS: dict[str, Callable[[tuple[int, int], int], nn.Module]] = {
    'bowenc0221/resnet50_os32': lambda crop, num_classes: Bowenc0221(
        ResNet(_RESNET50, 32), 32, crop, num_classes
    ),
    'bowenc0221/resnet50_os16': lambda crop, num_classes: Bowenc0221(
        ResNet(_RESNET50, 16), 16, crop, num_classes, 128
    ),
    'deeplab2/mobilenet_v3_large_os32': lambda _, num_classes: DeepLab2(
        MobileNetV3Large(), (3, 6, 9), is_separable=False, epsilon=1e-3, num_classes=num_classes
    ),
    'paper/xception71': lambda _, num_classes: DeepLab2(
        Xception71(), (6, 12, 18), is_separable=True, epsilon=1e-5, num_classes=num_classes
    ),
}


def prepare(setup: Setup) -> Program:
    """Makes inference; `setup.mode` is 'eager' or 'compile', plus '_bf16' for autocast."""
    arguments = setup.arguments
    device = find_device(setup)
    network = make_network(setup).eval()
    image = load_channels_last(setup, 'image', device)
    scene = {}
    if 'stride4_scene' in arguments['inputs']:
        scene = {key: load_channels_last(setup, key, device) for key in HEADS}
        for key, head in find_heads(network).items():
            head.register_forward_hook(functools.partial(_put_in_place, scene[key]))
    run = network
    if 'compile' in setup.mode:
        # Freezing turns the weights into constants, so that the compiler folds BatchNorm and lays
        # out kernels in advance.
        torch._inductor.config.freezing = True
        run = torch.compile(network)

    def infer():
        with torch.no_grad(), autocast(setup):
            outputs = run(image)
            if not scene:
                return outputs
            maps = {key: outputs[key].permute(0, 2, 3, 1) for key in HEADS}
            return {
                'panoptic': post_process(maps, {**arguments, 'is_from_labels': False}, 'bowenc0221')
            }

    def get_outputs(outputs):
        if scene:
            return {'panoptic': merge_voids(outputs['panoptic'].cpu().numpy())}
        return {
            key: value.float().cpu().numpy().transpose(0, 2, 3, 1) for key, value in outputs.items()
        }

    return make_program(
        infer,
        arguments=[image, scene, network.state_dict()],
        device=device,
        num_items=arguments['batch'],
        get_outputs=get_outputs,
    )


def make_network(setup: Setup) -> nn.Module:
    """Makes the network of a case on its device.

    The first peer draws the weights and writes them to the file 'weights', for all programs.
    """
    arguments = setup.arguments
    make = _NETWORKS[arguments['preset']]
    path = setup.files['weights']
    if not os.path.exists(path):
        # Statistics come from small images, so the pooling window must be made for their size.
        state = draw_weights(make(STATISTICS_SIZE, arguments['num_classes'])).state_dict()
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    network = make(tuple(arguments['size']), arguments['num_classes'])
    with np.load(path) as file:
        network.load_state_dict({key: torch.from_numpy(value) for key, value in file.items()})
    return network.to(find_device(setup), memory_format=torch.channels_last)


def find_heads(network: nn.Module) -> dict[str, nn.Module]:
    """Finds the modules that make the outputs before upsampling."""
    if isinstance(network, DeepLab2):
        return {key: getattr(network, f'{key}_head') for key in HEADS}
    decoder = network.decoder
    return {**decoder['semantic_head'].classifier, **decoder['instance_head'].classifier}


def _put_in_place(scene, module, arguments, output):
    """Replaces an output by a scene; a small share of the output forces its computation."""
    return scene + BLEND * output


def load_channels_last(setup: Setup, name: str, device: str) -> torch.Tensor:
    """Loads f32[B, H, W, C] as a tensor [B, C, H, W] in channels-last memory."""
    return torch.from_numpy(setup.load(name)).to(device).permute(0, 3, 1, 2)


def autocast(setup: Setup) -> contextlib.AbstractContextManager:
    """Makes a context of bfloat16 autocast if the mode asks for it."""
    if 'bf16' not in setup.mode:
        return contextlib.nullcontext()
    return torch.autocast(find_device(setup), dtype=torch.bfloat16)
