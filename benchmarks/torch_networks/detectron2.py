"""Panoptic-DeepLab of the detectron2 projects, with the keys of its published weights."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import conv, norm


class ConvNorm(nn.Conv2d):
    """Convolution with BatchNorm and an optional ReLU."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, dilation=1, groups=1, has_relu=True):
        super().__init__(
            inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, False
        )
        self.norm = norm(outputs)
        self.has_relu = has_relu

    def forward(self, x):
        x = self.norm(super().forward(x))
        return F.relu(x) if self.has_relu else x


class Depthwise(nn.Module):
    def __init__(self, inputs, outputs, kernel, dilation=1):
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, kernel, dilation=dilation, groups=inputs)
        self.pointwise = ConvNorm(inputs, outputs)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


def fusion(inputs, outputs, is_separable, hidden=None):
    if is_separable:
        return Depthwise(inputs, outputs, 5)
    hidden = hidden or outputs
    return nn.Sequential(ConvNorm(inputs, hidden, 3), ConvNorm(hidden, outputs, 3))


class DetectronBlock(nn.Module):
    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1 = ConvNorm(inputs, width)
        self.conv2 = ConvNorm(width, width, 3, stride, dilation)
        self.conv3 = ConvNorm(width, 4 * width, has_relu=False)
        self.shortcut = (
            ConvNorm(inputs, 4 * width, 1, stride, has_relu=False) if inputs != 4 * width else None
        )

    def forward(self, x):
        y = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class DetectronResNet(nn.Module):
    """ResNet-52 with a stem of three 3x3 convolutions and a max-pool.

    The output stride is 16, with dilations 2, 4, 8 in the last stage.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict(
            {
                'conv1': ConvNorm(3, 64, 3, 2),
                'conv2': ConvNorm(64, 64, 3),
                'conv3': ConvNorm(64, 128, 3),
            }
        )
        inputs = 128
        for i, count in enumerate((3, 4, 6, 3)):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and i in (1, 2) else 1
                blocks.append(
                    DetectronBlock(inputs, 64 * 2**i, stride, 2 ** (block + 1) if i == 3 else 1)
                )
                inputs = 256 * 2**i
            setattr(self, f'res{i + 2}', nn.Sequential(*blocks))

    def forward(self, x):
        for i in (1, 2, 3):
            x = self.stem[f'conv{i}'](x)
        x = F.max_pool2d(x, 3, 2, 1)
        features = {}
        for name in ('res2', 'res3', 'res4', 'res5'):
            x = getattr(self, name)(x)
            features[name] = x
        return features


class DetectronASPP(nn.Module):
    def __init__(self, window, is_separable):
        super().__init__()
        atrous = [
            Depthwise(2048, 256, 3, rate) if is_separable else ConvNorm(2048, 256, 3, 1, rate)
            for rate in (6, 12, 18)
        ]
        pooling = nn.Sequential(nn.AvgPool2d(window, 1), conv(2048, 256, bias=True), nn.ReLU())
        self.convs = nn.ModuleList([ConvNorm(2048, 256), *atrous, pooling])
        self.project = ConvNorm(5 * 256, 256)

    def forward(self, x):
        branches = [branch(x) for branch in self.convs]
        branches[-1] = F.interpolate(
            branches[-1], x.shape[2:], mode='bilinear', align_corners=False
        )
        return self.project(torch.cat(branches, 1))


class DetectronDecoder(nn.Module):
    """Decoder that concatenates the skip feature before its own."""

    def __init__(self, width, window, is_separable):
        super().__init__()

        def make_stage(inputs, projected, own):
            fuse = fusion(projected + own, width, is_separable)
            return nn.ModuleDict({'project_conv': ConvNorm(inputs, projected), 'fuse_conv': fuse})

        self.decoder = nn.ModuleDict(
            {
                'res2': make_stage(256, 32, width),
                'res3': make_stage(512, 64, 256),
                'res5': nn.ModuleDict({'project_conv': DetectronASPP(window, is_separable)}),
            }
        )

    def decode(self, features):
        x = self.decoder['res5']['project_conv'](features['res5'])
        for name in ('res3', 'res2'):
            skip = self.decoder[name]['project_conv'](features[name])
            x = F.interpolate(x, skip.shape[2:], mode='bilinear', align_corners=False)
            x = self.decoder[name]['fuse_conv'](torch.cat([skip, x], 1))
        return x


class SemanticHead(DetectronDecoder):
    def __init__(self, num_classes, window, is_separable):
        super().__init__(256, window, is_separable)
        self.head = fusion(256, 256, is_separable)
        self.predictor = conv(256, num_classes, bias=True)


class InstanceHead(DetectronDecoder):
    """Heads of centres and offsets; the centre head is never separable."""

    def __init__(self, window, is_separable):
        super().__init__(128, window, is_separable)
        self.center_head = fusion(128, 32, False, 128)
        self.center_predictor = conv(32, 1, bias=True)
        self.offset_head = fusion(128, 32, is_separable, 128)
        self.offset_predictor = conv(32, 2, bias=True)


class Detectron2(nn.Module):
    """Panoptic-DeepLab at output stride 16.

    Args:
      is_separable: separable convolutions in ASPP, decoders and heads, except the centre head.
      crop: (height, width) in pixels that the pooling averages over.
      num_classes: semantic classes.
    """

    def __init__(self, is_separable, crop, num_classes=19):
        super().__init__()
        window = tuple(n // 16 for n in crop)
        self.backbone = DetectronResNet()
        self.sem_seg_head = SemanticHead(num_classes, window, is_separable)
        self.ins_embed_head = InstanceHead(window, is_separable)

    def forward(self, image):
        features = self.backbone(image)
        semantic = self.sem_seg_head.decode(features)
        instance = self.ins_embed_head.decode(features)
        outputs = {
            'semantic': self.sem_seg_head.predictor(self.sem_seg_head.head(semantic)),
            'center': self.ins_embed_head.center_predictor(
                self.ins_embed_head.center_head(instance)
            ),
            'offset': self.ins_embed_head.offset_predictor(
                self.ins_embed_head.offset_head(instance)
            ),
        }
        outputs = {
            name: F.interpolate(x, scale_factor=4, mode='bilinear', align_corners=False)
            for name, x in outputs.items()
        }
        return {**outputs, 'offset': outputs['offset'] * 4}
