"""Random images and weights for the comparison of two float32 programs."""

import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def draw_image(size, batch=1, seed=1):
    """Draws f32[batch, 3, height, width], smooth like photographs.

    Pure noise would average out in deep layers.
    """
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 1, (batch, 3, 7, 9)).astype(np.float32))
    fine = torch.from_numpy(rng.normal(0, 0.3, (batch, 3, *size)).astype(np.float32))
    return F.interpolate(coarse, size, mode='bilinear', align_corners=True) + fine


# (height, width) in pixels of the images for the statistics of BatchNorm.
STATISTICS_SIZE = (129, 129)
# Keys of the last BatchNorm of residual branches, and of the last convolutions.
RESIDUAL = re.compile(
    r'.*(layer\d\.\d+\.bn3|branches\.\d\.\d\.bn2|conv3\.norm|sep_conv3\.block\.bn_point'
    r'|separable_conv3_pointwise\.BatchNorm'
    r'|features\.\d+\.(conv\.3|block\.[23]\.1))\.weight'
)
PREDICTORS = re.compile(r'.*(classifier\.\w+\.1|predictor|logits\.semantic)\.weight')


def draw_weights(network, seed=0):
    """Draws all weights, and statistics of BatchNorm near those of random images.

    Activations stay near 1, and rounding errors do not grow from layer to layer until no two
    programs agree: residual branches are weaker than their shortcuts, as in trained networks, and
    no channel is divided by a deviation near 0.
    """
    rng = np.random.default_rng(seed)
    for name, value in network.state_dict().items():
        if name.endswith('layer_scale'):
            drawn = rng.uniform(0.1, 0.3, value.shape)
        elif value.ndim > 1:
            gain = 0.25 if PREDICTORS.fullmatch(name) else 1
            drawn = rng.normal(0, gain * np.sqrt(2 / np.prod(value.shape[1:])), value.shape)
        elif name.endswith('weight'):
            drawn = rng.uniform(0.5, 1.5, value.shape) * (0.2 if RESIDUAL.fullmatch(name) else 1)
        elif name.endswith('bias'):
            drawn = rng.normal(0, 0.3, value.shape)
        else:
            continue
        value.copy_(torch.from_numpy(drawn))

    def set_statistics(module, inputs):
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        module.running_mean.copy_(0.7 * mean)
        module.running_var.copy_(variance + mean**2 / 2 + 0.1)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(set_statistics) for module in norms]
    network.eval()
    with torch.no_grad():
        network(draw_image(STATISTICS_SIZE, 2, seed))
    for hook in hooks:
        hook.remove()
    return network
