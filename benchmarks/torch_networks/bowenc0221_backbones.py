"""Backbones of bowenc0221/panoptic-deeplab with features of strides 4, 8, 16 and the last.

Modules are nested like those of the original, so that their state has the published keys.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import conv, conv_norm_relu, norm


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, dilation, groups=1, width_per_group=64):
        super().__init__()
        inner = width * width_per_group // 64 * groups
        self.conv1, self.bn1 = conv(inputs, inner), norm(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, dilation, groups), norm(inner)
        self.conv3, self.bn3 = conv(inner, 4 * width), norm(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride), norm(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet, or ResNeXt, with a stem of one 7x7 convolution and a max-pool.

    At output stride 16 the last stage has dilation 2, except in its first block.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, counts, output_stride, **groups):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, 2), norm(64)
        inputs = 64
        for i, count in enumerate(counts):
            is_dilated = i == 3 and output_stride == 16
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and i > 0 and not is_dilated else 1
                dilation = 2 if is_dilated and block > 0 else 1
                blocks.append(Bottleneck(inputs, 64 * 2**i, stride, dilation, **groups))
                inputs = 256 * 2**i
            setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        features = []
        for i in range(1, 5):
            x = getattr(self, f'layer{i}')(x)
            features.append(x)
        return features


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        width = inputs * expansion
        layers = [] if expansion == 1 else [self._relu6(inputs, width, 1)]
        layers += [self._relu6(width, width, 3, stride, width), conv(width, outputs), norm(outputs)]
        self.conv = nn.Sequential(*layers)
        self.is_added = stride == 1 and inputs == outputs

    @staticmethod
    def _relu6(inputs, outputs, kernel, stride=1, groups=1):
        return nn.Sequential(
            conv(inputs, outputs, kernel, stride, groups=groups), norm(outputs), nn.ReLU6()
        )

    def forward(self, x):
        return x + self.conv(x) if self.is_added else self.conv(x)


class MobileNetV2(nn.Module):
    channels = (24, 32, 96, 320)

    def __init__(self):
        super().__init__()
        layers, inputs = [InvertedResidual._relu6(3, 32, 3, 2)], 32
        for expansion, outputs, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for i in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers)

    def forward(self, x):
        features = []
        for i, layer in enumerate(self.features, 1):
            x = layer(x)
            if i in (4, 7, 14, 18):
                features.append(x)
        return features


class SeparableConv(nn.Module):
    """Separable convolution after a ReLU, or in the last block with a ReLU after each part."""

    def __init__(self, inputs, outputs, stride, dilation, is_relu_first):
        super().__init__()
        self.is_relu_first = is_relu_first
        layers = {
            'depthwise': conv(inputs, inputs, 3, stride, dilation, groups=inputs),
            'bn_depth': norm(inputs),
            'pointwise': conv(inputs, outputs),
            'bn_point': norm(outputs),
        }
        self.block = nn.Sequential(OrderedDict(layers))

    def forward(self, x):
        if self.is_relu_first:
            return self.block(F.relu(x))
        block = self.block
        x = F.relu(block.bn_depth(block.depthwise(x)))
        return F.relu(block.bn_point(block.pointwise(x)))


class XceptionBlock(nn.Module):
    def __init__(self, channels, stride=1, shortcut='conv', dilation=1):
        super().__init__()
        self.shortcut = shortcut
        if shortcut == 'conv':
            self.conv, self.bn = conv(channels[0], channels[3], 1, stride), norm(channels[3])
        for i in range(3):
            layer = SeparableConv(
                channels[i], channels[i + 1], stride if i == 2 else 1, dilation, shortcut != 'none'
            )
            setattr(self, f'sep_conv{i + 1}', layer)

    def forward(self, x):
        inner = self.sep_conv2(self.sep_conv1(x))
        y = self.sep_conv3(inner)
        if self.shortcut != 'none':
            y = y + (self.bn(self.conv(x)) if self.shortcut == 'conv' else x)
        return y, inner


class Xception65(nn.Module):
    """Xception-65 at output stride 32 or 16.

    Decoders read the second separable convolution of blocks 2 and 3, and the output of the middle
    flow.
    """

    channels = (256, 728, 728, 2048)

    def __init__(self, output_stride=32):
        super().__init__()
        stride = output_stride // 16
        self.conv1, self.bn1 = conv(3, 32, 3, 2), norm(32)
        self.conv2, self.bn2 = conv(32, 64, 3), norm(64)
        self.block1 = XceptionBlock((64, 128, 128, 128), 2)
        self.block2 = XceptionBlock((128, 256, 256, 256), 2)
        self.block3 = XceptionBlock((256, 728, 728, 728), 2)
        for i in range(4, 20):
            setattr(self, f'block{i}', XceptionBlock((728,) * 4, shortcut='sum'))
        self.block20 = XceptionBlock((728, 728, 1024, 1024), stride)
        self.block21 = XceptionBlock(
            (1024, 1536, 1536, 2048), shortcut='none', dilation=2 // stride
        )

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = []
        for i in range(1, 22):
            x, inner = getattr(self, f'block{i}')(x)
            if i in (2, 3):
                features.append(inner)
            if i in (19, 21):
                features.append(x)
        return features


class BasicBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = conv(width, width, 3), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3), norm(width)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class HRModule(nn.Module):
    """Parallel branches, then a fusion in which each becomes the sum of all.

    Coarser branches are upsampled bilinearly with aligned corners.
    """

    def __init__(self, widths):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._make_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _make_path(widths, source, target):
        if source == target:
            return None
        if source > target:
            return nn.Sequential(conv(widths[source], widths[target]), norm(widths[target]))
        steps = []
        for i in range(source, target):
            outputs = widths[target] if i == target - 1 else widths[source]
            layers = [conv(widths[source], outputs, 3, 2), norm(outputs)]
            steps.append(nn.Sequential(*layers, *([] if i == target - 1 else [nn.ReLU()])))
        return nn.Sequential(*steps)

    def forward(self, features):
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        outputs = []
        for target, paths in enumerate(self.fuse_layers):
            total = features[target]
            for source, path in enumerate(paths):
                if path is not None:
                    x = path(features[source])
                    size = features[target].shape[2:]
                    total = total + (
                        x
                        if source < target
                        else F.interpolate(x, size, mode='bilinear', align_corners=True)
                    )
            outputs.append(F.relu(total))
        return outputs


class HRNet(nn.Module):
    channels = (48, 96, 192, 384)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 3, 2), norm(64)
        self.conv2, self.bn2 = conv(64, 64, 3, 2), norm(64)
        self.layer1 = nn.Sequential(
            *(Bottleneck(64 if i == 0 else 256, 64, 1, 1) for i in range(4))
        )
        for i, count in enumerate((1, 4, 3), 1):
            new = nn.Sequential(
                conv_norm_relu(self.channels[i - 1] if i > 1 else 256, self.channels[i], 3, 2)
            )
            old = [conv_norm_relu(256, 48, 3)] if i == 1 else [None] * i
            setattr(self, f'transition{i}', nn.ModuleList([*old, new]))
            setattr(
                self,
                f'stage{i + 1}',
                nn.Sequential(*(HRModule(self.channels[: i + 1]) for _ in range(count))),
            )

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = [self.layer1(x)]
        for i in range(1, 4):
            transition = getattr(self, f'transition{i}')
            last = features[-1]
            features = [
                x if layer is None else layer(x)
                for layer, x in zip(transition, features, strict=False)
            ]
            features = getattr(self, f'stage{i + 1}')([*features, transition[i](last)])
        return features
