"""Networks without a PyTorch port: MobileNetV3-large of DeepLab2, Xception-71 of the paper.

Modules have the names of ours, so that weights convert by name. Everything else follows the
definitions in DeepLab2 and TF DeepLab.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Sequential):
    def __init__(
        self, inputs, outputs, epsilon, kernel=1, stride=1, dilation=1, groups=1, activation=nn.ReLU
    ):
        padding = dilation * (kernel // 2)
        layers = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
            norm=nn.BatchNorm2d(outputs, epsilon),
        )
        if activation is not None:
            layers['activation'] = activation(inplace=True)
        super().__init__(layers)


class SeparableConv(nn.Sequential):
    def __init__(self, inputs, outputs, epsilon, kernel=5, dilation=1):
        depthwise = ConvNorm(inputs, inputs, epsilon, kernel, dilation=dilation, groups=inputs)
        super().__init__(
            OrderedDict(depthwise=depthwise, pointwise=ConvNorm(inputs, outputs, epsilon))
        )


def resize(x, size):
    return F.interpolate(x, size, mode='bilinear', align_corners=True)


# Rows of (kernel, expanded channels, channels, has squeeze-and-excite, activation, stride).
_ROWS = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)
_SQUEEZED = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce = nn.Conv2d(channels, _SQUEEZED[channels], 1)
        self.expand = nn.Conv2d(_SQUEEZED[channels], channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Inverted residual that returns its output and, for decoders, its depthwise activation."""

    def __init__(self, inputs, row, epsilon):
        super().__init__()
        kernel, expanded, outputs, has_squeeze_excite, activation, stride = row
        self.expand = (
            ConvNorm(inputs, expanded, epsilon, activation=activation)
            if expanded != inputs
            else nn.Identity()
        )
        self.depthwise = ConvNorm(
            expanded, expanded, epsilon, kernel, stride, groups=expanded, activation=activation
        )
        self.squeeze_excite = SqueezeExcite(expanded) if has_squeeze_excite else nn.Identity()
        self.project = ConvNorm(expanded, outputs, epsilon, activation=None)
        self.is_added = stride == 1 and inputs == outputs

    def forward(self, x):
        inner = self.depthwise(self.expand(x))
        y = self.project(self.squeeze_excite(inner))
        return x + y if self.is_added else y, inner


class MobileNetV3Large(nn.Module):
    """MobileNetV3-large at output stride 32."""

    # Channels of the features of strides 4, 8 and the last.
    channels = (72, 120, 960)

    def __init__(self):
        super().__init__()
        epsilon, inputs = 1e-3, 16
        self.stem = ConvNorm(3, inputs, epsilon, 3, 2, activation=nn.Hardswish)
        for i, row in enumerate(_ROWS):
            self.add_module(f'block_{i}', InvertedResidual(inputs, row, epsilon))
            inputs = row[2]
        self.last_conv = ConvNorm(inputs, 960, epsilon, activation=nn.Hardswish)

    def forward(self, x):
        x = self.stem(x)
        features = []
        for i in range(len(_ROWS)):
            x, inner = getattr(self, f'block_{i}')(x)
            if i in (2, 5):
                features.append(inner)
        return [*features, self.last_conv(x)]


class XceptionModule(nn.Module):
    """Three separable convolutions and a shortcut.

    Returns its output and that of the second convolution.
    """

    def __init__(self, inputs, widths, epsilon, *, stride=1, dilation=1, shortcut):
        super().__init__()
        # With a shortcut ReLU precedes each separable convolution, else it follows both its parts.
        self.is_relu_first = shortcut != 'none'
        activation = None if self.is_relu_first else nn.ReLU
        for i, (before, after) in enumerate(zip((inputs, *widths[:2]), widths, strict=True), 1):
            step = stride if i == 3 else 1
            depthwise = ConvNorm(before, before, epsilon, 3, step, dilation, before, activation)
            self.add_module(f'separable_conv{i}_depthwise', depthwise)
            self.add_module(
                f'separable_conv{i}_pointwise',
                ConvNorm(before, after, epsilon, activation=activation),
            )
        self.shortcut = None
        if shortcut == 'conv':
            self.shortcut = ConvNorm(inputs, widths[2], epsilon, stride=stride, activation=None)

    def forward(self, x):
        y = x
        for i in (1, 2, 3):
            y = getattr(self, f'separable_conv{i}_depthwise')(
                F.relu(y) if self.is_relu_first else y
            )
            y = getattr(self, f'separable_conv{i}_pointwise')(y)
            if i == 2:
                inner = y
        if self.is_relu_first:
            y = y + (x if self.shortcut is None else self.shortcut(x))
        return y, inner


class Xception71(nn.Module):
    """Xception-71 at output stride 16: the last module is dilated in place of the last stride."""

    channels = (256, 728, 2048)

    def __init__(self):
        super().__init__()
        epsilon = 1e-3
        self.stem_1 = ConvNorm(3, 32, epsilon, 3, 2)
        self.stem_2 = ConvNorm(32, 64, epsilon, 3)
        inputs = 64
        for i, (width, stride) in enumerate(((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)), 1):
            module = XceptionModule(inputs, (width,) * 3, epsilon, stride=stride, shortcut='conv')
            self.add_module(f'entry_block{i}', module)
            inputs = width
        for i in range(1, 17):
            self.add_module(
                f'middle_block{i}', XceptionModule(728, (728,) * 3, epsilon, shortcut='sum')
            )
        self.exit_block1 = XceptionModule(728, (728, 1024, 1024), epsilon, shortcut='conv')
        self.exit_block2 = XceptionModule(
            1024, (1536, 1536, 2048), epsilon, dilation=2, shortcut='none'
        )

    def forward(self, x):
        x = self.stem_2(self.stem_1(x))
        features = []
        for name, module in self.named_children():
            if not name.startswith('stem'):
                x, inner = module(x)
                if name in ('entry_block3', 'entry_block5'):
                    features.append(inner)
        return [*features, x]


class ASPP(nn.Module):
    """ASPP with average pooling over the whole map."""

    def __init__(self, inputs, rates, is_separable, epsilon):
        super().__init__()
        self.branch_0 = ConvNorm(inputs, 256, epsilon)
        for i, rate in enumerate(rates, 1):
            layer = SeparableConv if is_separable else ConvNorm
            self.add_module(f'branch_{i}', layer(inputs, 256, epsilon, 3, dilation=rate))
        self.pool = ConvNorm(inputs, 256, epsilon)
        self.project = ConvNorm(256 * (2 + len(rates)), 256, epsilon)

    def forward(self, x):
        branches = [
            module(x) for name, module in self.named_children() if name.startswith('branch')
        ]
        pooled = self.pool(x.mean((2, 3), keepdim=True)).expand_as(branches[0])
        return self.project(torch.cat([*branches, pooled], 1))


class Decoder(nn.Module):
    def __init__(self, channels, projected, width, rates, is_separable, epsilon):
        super().__init__()
        self.aspp = ASPP(channels[-1], rates, is_separable, epsilon)
        inputs = 256
        for stride, skip, low in zip((8, 4), channels[1::-1], projected, strict=True):
            self.add_module(f'project_stride{stride}', ConvNorm(skip, low, epsilon))
            self.add_module(f'fuse_stride{stride}', SeparableConv(inputs + low, width, epsilon))
            inputs = width

    def forward(self, features):
        x = self.aspp(features[-1])
        for stride, feature in ((8, features[1]), (4, features[0])):
            low = getattr(self, f'project_stride{stride}')(feature)
            x = getattr(self, f'fuse_stride{stride}')(torch.cat([resize(x, low.shape[2:]), low], 1))
        return x


class DeepLab2(nn.Module):
    """Panoptic-DeepLab in the arrangement of DeepLab2, with maps [B, ., H, W] at full resolution.

    Args:
      backbone: module that returns features of strides 4, 8 and the last.
      rates: dilations of the ASPP.
      is_separable: ASPP with separable convolutions.
      epsilon: epsilon of BatchNorm after the backbone.
      num_classes: semantic classes.
    """

    def __init__(self, backbone, rates, *, is_separable, epsilon, num_classes):
        super().__init__()
        self.backbone = backbone
        self.semantic_decoder = Decoder(
            backbone.channels, (64, 32), 256, rates, is_separable, epsilon
        )
        self.instance_decoder = Decoder(
            backbone.channels, (32, 16), 128, rates, is_separable, epsilon
        )
        for name, inputs, width, outputs in (
            ('semantic', 256, 256, num_classes),
            ('center', 128, 32, 1),
            ('offset', 128, 32, 2),
        ):
            layers = OrderedDict(
                fuse=SeparableConv(inputs, width, epsilon), predict=nn.Conv2d(width, outputs, 1)
            )
            self.add_module(f'{name}_head', nn.Sequential(layers))

    def forward(self, image):
        features = self.backbone(image)
        instance = self.instance_decoder(features)
        offset = self.offset_head(instance)
        scale = [(n - 1) / (m - 1) for n, m in zip(image.shape[2:], offset.shape[2:], strict=True)]
        outputs = {
            'semantic': self.semantic_head(self.semantic_decoder(features)),
            'center': self.center_head(instance),
            'offset': offset * torch.tensor(scale, device=offset.device)[:, None, None],
        }
        return {name: resize(x, image.shape[2:]) for name, x in outputs.items()}
