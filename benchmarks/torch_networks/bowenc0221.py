"""Panoptic-DeepLab of bowenc0221/panoptic-deeplab, with the keys of its published weights."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import HEADS, conv, conv_norm_relu, norm


def separable5x5(inputs, outputs):
    layers = nn.Sequential(
        conv_norm_relu(inputs, inputs, 5, groups=inputs),
        conv(inputs, outputs),
        norm(outputs),
        nn.ReLU(),
    )
    return nn.Sequential(layers)


class Pooling(nn.Module):
    def __init__(self, inputs, window):
        super().__init__()
        self.aspp_pooling = nn.Sequential(nn.AvgPool2d(window, 1), conv(inputs, 256), nn.ReLU())

    def forward(self, x):
        return F.interpolate(self.aspp_pooling(x), x.shape[2:], mode='bilinear', align_corners=True)


class ASPP(nn.Module):
    def __init__(self, inputs, rates, window):
        super().__init__()
        atrous = [conv_norm_relu(inputs, 256, 3, dilation=rate) for rate in rates]
        self.convs = nn.ModuleList([conv_norm_relu(inputs, 256), *atrous, Pooling(inputs, window)])
        self.project = conv_norm_relu(5 * 256, 256)

    def forward(self, x):
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class Decoder(nn.Module):
    """Decoder that concatenates the skip feature after its own."""

    def __init__(self, channels, projected, width, rates, window):
        super().__init__()
        self.aspp = ASPP(channels[-1], rates, window)
        skips = channels[-2::-1][-len(projected) :]
        self.project = nn.ModuleList(
            conv_norm_relu(n, m) for n, m in zip(skips, projected, strict=True)
        )
        inputs = [256] + [width] * (len(projected) - 1)
        self.fuse = nn.ModuleList(
            separable5x5(n + m, width) for n, m in zip(inputs, projected, strict=True)
        )

    def forward(self, features):
        x = self.aspp(features[-1])
        skips = features[-2::-1][-len(self.fuse) :]
        for skip, project, fuse in zip(skips, self.project, self.fuse, strict=True):
            skip = project(skip)
            x = F.interpolate(x, skip.shape[2:], mode='bilinear', align_corners=True)
            x = fuse(torch.cat([x, skip], 1))
        return x


class Head(nn.Module):
    def __init__(self, inputs, width, outputs):
        super().__init__()
        self.classifier = nn.ModuleDict(
            {
                name: nn.Sequential(separable5x5(inputs, width), conv(width, count, bias=True))
                for name, count in outputs.items()
            }
        )


class Bowenc0221(nn.Module):
    """Panoptic-DeepLab with three skips at output stride 32, two at 16.

    Args:
      backbone: module that returns features of strides 4, 8, 16 and the output stride.
      output_stride: stride of the last feature.
      crop: (height, width) in pixels that the pooling averages over.
      head_width: channels of the instance heads.
    """

    def __init__(self, backbone, output_stride, crop, num_classes=19, head_width=32):
        super().__init__()
        rates, num_skips = ((3, 6, 9), 3) if output_stride == 32 else ((6, 12, 18), 2)
        window = tuple((n - 1) // output_stride + 1 for n in crop)
        self.backbone = backbone
        channels = backbone.channels
        self.decoder = nn.ModuleDict(
            {
                'semantic_decoder': Decoder(
                    channels, (128, 64, 32)[-num_skips:], 256, rates, window
                ),
                'instance_decoder': Decoder(
                    channels, (64, 32, 16)[-num_skips:], 128, rates, window
                ),
                'semantic_head': Head(256, 256, {'semantic': num_classes}),
                'instance_head': Head(128, head_width, {'center': 1, 'offset': 2}),
            }
        )

    def forward(self, image):
        features = self.backbone(image)
        semantic = self.decoder['semantic_decoder'](features)
        instance = self.decoder['instance_decoder'](features)
        heads = {
            **self.decoder['semantic_head'].classifier,
            **self.decoder['instance_head'].classifier,
        }
        size = image.shape[2:]
        outputs = {
            name: heads[name](semantic if name == 'semantic' else instance) for name in HEADS
        }
        factor = (size[0] - 1) // (outputs['offset'].shape[2] - 1)
        outputs = {
            name: F.interpolate(x, size, mode='bilinear', align_corners=True)
            for name, x in outputs.items()
        }
        return {**outputs, 'offset': outputs['offset'] * factor}
