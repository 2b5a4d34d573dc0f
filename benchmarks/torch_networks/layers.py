"""Layers that the networks of bowenc0221 and detectron2 share."""

from torch import nn

EPSILON = 1e-5
HEADS = ('semantic', 'center', 'offset')


def conv(inputs, outputs, kernel=1, stride=1, dilation=1, groups=1, bias=False):
    return nn.Conv2d(
        inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, bias
    )


def norm(channels):
    return nn.BatchNorm2d(channels, EPSILON)


def conv_norm_relu(inputs, outputs, kernel=1, stride=1, dilation=1, groups=1):
    return nn.Sequential(
        conv(inputs, outputs, kernel, stride, dilation, groups), norm(outputs), nn.ReLU()
    )
