"""A training step in PyTorch: network, bowenc0221's losses, gradients, Adam."""

import dataclasses

import torch
import torch.nn.functional as F

from benchmarks.inputs import HARDEST_FRACTION, IGNORE_LABEL
from benchmarks.peers.model import autocast, load_channels_last, make_network
from benchmarks.peers.running import count_bytes, find_device, make_program
from benchmarks.program import Program, Setup

_LEARNING_RATE = 5e-4


def prepare(setup: Setup) -> Program:
    """Makes the training step; `setup.mode` is that of `peers.model.prepare`."""
    device = find_device(setup)
    network = make_network(setup).train()
    optimizer = torch.optim.Adam(network.parameters(), _LEARNING_RATE, eps=1e-7)
    image = load_channels_last(setup, 'image', device)
    targets = {
        name.removeprefix('target_'): torch.from_numpy(setup.load(name)).to(device)
        for name in setup.files
        if name.startswith('target_')
    }

    def find_loss():
        with autocast(setup):
            outputs = network(image)
        return panoptic_loss({key: value.float() for key, value in outputs.items()}, targets)

    if 'compile' in setup.mode:
        find_loss = torch.compile(find_loss)
    losses = []

    def step():
        optimizer.zero_grad()
        loss = find_loss()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    program = make_program(
        step,
        arguments=[image, targets, network.state_dict()],
        device=device,
        num_items=setup.arguments['batch'],
        get_outputs=lambda _: {'loss': losses[0].cpu().numpy()},
    )
    # Adam's two moments exist only after the first step, so `make_program` did not count them.
    state_bytes = 2 * count_bytes(list(network.parameters()))
    return dataclasses.replace(program, argument_bytes=program.argument_bytes + state_bytes)


def panoptic_loss(
    outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Computes the loss with weights 1, 200 and 0.01.

    The terms are cross entropy of the hardest pixels of the batch, squared errors of the heat and
    absolute errors of the offsets.
    """
    labels = targets['semantic'].long()
    pixels = F.cross_entropy(
        outputs['semantic'], labels, ignore_index=IGNORE_LABEL, reduction='none'
    )
    pixels = (pixels * targets['semantic_weight']).flatten()
    semantic = torch.topk(pixels, int(HARDEST_FRACTION * pixels.numel())).values.mean()
    weight = targets['center_weight']
    center = ((outputs['center'][:, 0] - targets['center']) ** 2 * weight).sum() / weight.sum()
    weight = targets['offset_weight'][:, None]
    difference = (outputs['offset'] - targets['offset'].permute(0, 3, 1, 2)).abs()
    offset = (difference * weight).sum() / (2 * weight.sum())
    return semantic + 200 * center + 0.01 * offset
