"""DeepLabs of the detectron2 projects, with the keys of their published weights."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import conv, norm

_LEVELS = ('res2', 'res3', 'res4', 'res5')


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
    def __init__(self, inputs, width, stride, dilation, is_first_strided=False):
        super().__init__()
        first, second = (stride, 1) if is_first_strided else (1, stride)
        self.conv1 = ConvNorm(inputs, width, 1, first)
        self.conv2 = ConvNorm(width, width, 3, second, dilation)
        self.conv3 = ConvNorm(width, 4 * width, has_relu=False)
        self.shortcut = (
            ConvNorm(inputs, 4 * width, 1, stride, has_relu=False) if inputs != 4 * width else None
        )

    def forward(self, x):
        y = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class DetectronResNet(nn.Module):
    """ResNet with a max-pool behind its stem.

    Args:
      counts: blocks of the four stages; (3, 4, 23, 3) make ResNet-103.
      is_deep: a stem of three 3x3 convolutions (ResNet-52), not of one 7x7.
      is_dilated: output stride 16, with dilations 2, 4, 8 in the last stage.
      is_first_strided: strides in the first convolution of a block (MSRA).
    """

    def __init__(
        self, counts=(3, 4, 6, 3), *, is_deep=True, is_dilated=True, is_first_strided=False
    ):
        super().__init__()
        stem = {'conv1': ConvNorm(3, 64, 7, 2)}
        if is_deep:
            stem = {
                'conv1': ConvNorm(3, 64, 3, 2),
                'conv2': ConvNorm(64, 64, 3),
                'conv3': ConvNorm(64, 128, 3),
            }
        self.stem = nn.ModuleDict(stem)
        inputs = 128 if is_deep else 64
        for i, count in enumerate(counts):
            blocks = []
            for block in range(count):
                is_strided = block == 0 and i > 0 and not (i == 3 and is_dilated)
                dilation = 2 ** (block + 1) if i == 3 and is_dilated else 1
                blocks.append(
                    DetectronBlock(
                        inputs, 64 * 2**i, 2 if is_strided else 1, dilation, is_first_strided
                    )
                )
                inputs = 256 * 2**i
            setattr(self, f'res{i + 2}', nn.Sequential(*blocks))

    def forward(self, x):
        for layer in self.stem.values():
            x = layer(x)
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for name in _LEVELS:
            x = getattr(self, name)(x)
            features.append(x)
        return features


@dataclasses.dataclass(frozen=True)
class Layout:
    """The features that heads read, by their names, fine to coarse.

    Attributes:
      channels: their channels; those of the coarsest go into the ASPP.
      projected: channels of the projections of all but the coarsest.
      rates: dilations of the ASPP.
      output_stride: stride of the coarsest.
    """

    channels: dict
    projected: dict
    rates: tuple = (6, 12, 18)
    output_stride: int = 16


_RESNET = Layout({'res2': 256, 'res3': 512, 'res5': 2048}, {'res2': 32, 'res3': 64})
XCEPTION_LAYOUT = Layout({'res2': 256, 'res3': 728, 'res5': 2048}, {'res2': 32, 'res3': 64})
HRNET_LAYOUT = Layout(
    dict(zip(_LEVELS, (48, 96, 192, 384), strict=True)),
    {'res2': 32, 'res3': 64, 'res4': 128},
    (3, 6, 9),
    32,
)


class DetectronASPP(nn.Module):
    def __init__(self, inputs, rates, window, is_separable):
        super().__init__()
        atrous = [
            Depthwise(inputs, 256, 3, rate) if is_separable else ConvNorm(inputs, 256, 3, 1, rate)
            for rate in rates
        ]
        pooling = nn.Sequential(nn.AvgPool2d(window, 1), conv(inputs, 256, bias=True), nn.ReLU())
        self.convs = nn.ModuleList([ConvNorm(inputs, 256), *atrous, pooling])
        self.project = ConvNorm(5 * 256, 256)

    def forward(self, x):
        branches = [branch(x) for branch in self.convs]
        branches[-1] = F.interpolate(
            branches[-1], x.shape[2:], mode='bilinear', align_corners=False
        )
        return self.project(torch.cat(branches, 1))


class DetectronDecoder(nn.Module):
    """Decoder that concatenates the skip feature before its own."""

    def __init__(self, width, window, is_separable, layout):
        super().__init__()
        *skips, last = layout.channels
        stages = {}
        for name in skips:
            inputs = layout.projected[name] + (256 if name == skips[-1] else width)
            stages[name] = nn.ModuleDict(
                {
                    'project_conv': ConvNorm(layout.channels[name], layout.projected[name]),
                    'fuse_conv': fusion(inputs, width, is_separable),
                }
            )
        aspp = DetectronASPP(layout.channels[last], layout.rates, window, is_separable)
        stages[last] = nn.ModuleDict({'project_conv': aspp})
        self.decoder = nn.ModuleDict(stages)

    def decode(self, features):
        *skips, last = self.decoder
        x = self.decoder[last]['project_conv'](features[last])
        for name in reversed(skips):
            skip = self.decoder[name]['project_conv'](features[name])
            x = F.interpolate(x, skip.shape[2:], mode='bilinear', align_corners=False)
            x = self.decoder[name]['fuse_conv'](torch.cat([skip, x], 1))
        return x


class SemanticHead(DetectronDecoder):
    def __init__(self, num_classes, window, is_separable, layout):
        super().__init__(256, window, is_separable, layout)
        self.head = fusion(256, 256, is_separable)
        self.predictor = conv(256, num_classes, bias=True)


class InstanceHead(DetectronDecoder):
    """Heads of centres and offsets; the centre head is never separable."""

    def __init__(self, window, is_separable, layout):
        super().__init__(128, window, is_separable, layout)
        self.center_head = fusion(128, 32, False, 128)
        self.center_predictor = conv(32, 1, bias=True)
        self.offset_head = fusion(128, 32, is_separable, 128)
        self.offset_predictor = conv(32, 2, bias=True)


class Detectron2(nn.Module):
    """Panoptic-DeepLab.

    Args:
      is_separable: separable convolutions in ASPP, decoders and heads, except the centre head.
      crop: (height, width) in pixels that the pooling averages over.
      num_classes: semantic classes.
      backbone: maps an image to features at strides 4, 8, 16 and the last; ResNet-52 by default.
      layout: the features that heads read.
    """

    def __init__(self, is_separable, crop, num_classes=19, backbone=None, layout=_RESNET):
        super().__init__()
        window = tuple(n // layout.output_stride for n in crop)
        self.backbone = backbone or DetectronResNet()
        self.sem_seg_head = SemanticHead(num_classes, window, is_separable, layout)
        self.ins_embed_head = InstanceHead(window, is_separable, layout)

    def forward(self, image):
        features = dict(zip(_LEVELS, self.backbone(image), strict=True))
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
        outputs = {name: _upsample(x, 4) for name, x in outputs.items()}
        return {**outputs, 'offset': outputs['offset'] * 4}


class DeepLabV3Head(nn.Module):
    def __init__(self, num_classes, window):
        super().__init__()
        self.aspp = DetectronASPP(2048, (6, 12, 18), window, False)
        self.predictor = conv(256, num_classes, bias=True)

    def decode(self, features):
        return self.aspp(features['res5'])


class DeepLabV3PlusHead(DetectronDecoder):
    def __init__(self, num_classes, window, layout):
        super().__init__(256, window, False, layout)
        self.predictor = conv(256, num_classes, bias=True)


class DetectronDeepLab(nn.Module):
    """DeepLabV3, or DeepLabV3+ with a layout of several features.

    Args:
      backbone, crop, num_classes, layout: as in `Detectron2`; the layout is None for DeepLabV3.
    """

    def __init__(self, backbone, crop, layout=None, num_classes=19):
        super().__init__()
        self.backbone = backbone
        window = tuple(n // (layout.output_stride if layout else 16) for n in crop)
        self.stride = 4 if layout else 16
        self.sem_seg_head = (
            DeepLabV3PlusHead(num_classes, window, layout)
            if layout
            else DeepLabV3Head(num_classes, window)
        )

    def forward(self, image):
        features = dict(zip(_LEVELS, self.backbone(image), strict=True))
        logits = self.sem_seg_head.predictor(self.sem_seg_head.decode(features))
        return {'semantic': _upsample(logits, self.stride)}


def _upsample(x, factor):
    return F.interpolate(x, scale_factor=factor, mode='bilinear', align_corners=False)
