"""Panoptic-DeepLab of bowenc0221 and of detectron2 in plain PyTorch, written from their definitions.

Modules are nested as in the originals, so that their state has the published keys. Skips its importer without torch.
"""

import re
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="the comparison with PyTorch needs it: pip install 'pdl_jax[convert]'")
nn, F = torch.nn, torch.nn.functional

EPSILON = 1e-5
HEADS = ('semantic', 'center', 'offset')


def conv(inputs, outputs, kernel=1, stride=1, dilation=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, bias)


def norm(channels):
    return nn.BatchNorm2d(channels, EPSILON)


def conv_norm_relu(inputs, outputs, kernel=1, stride=1, dilation=1, groups=1):
    return nn.Sequential(conv(inputs, outputs, kernel, stride, dilation, groups), norm(outputs), nn.ReLU())


# bowenc0221/panoptic-deeplab


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, dilation), norm(width)
        self.conv3, self.bn3 = conv(width, 4 * width), norm(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride), norm(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """One 7x7 and a max-pool; at output stride 16 the first block of the last stage is not dilated, the others are by 2."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, counts, output_stride):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, 2), norm(64)
        inputs = 64
        for i, count in enumerate(counts):
            is_dilated = i == 3 and output_stride == 16
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and i > 0 and not is_dilated else 1
                blocks.append(Bottleneck(inputs, 64 * 2**i, stride, 2 if is_dilated and block > 0 else 1))
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
        return nn.Sequential(conv(inputs, outputs, kernel, stride, groups=groups), norm(outputs), nn.ReLU6())

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
    """ReLU first; or, in the last block, behind both of its convolutions."""

    def __init__(self, inputs, outputs, stride, is_relu_first):
        super().__init__()
        self.is_relu_first = is_relu_first
        layers = {
            'depthwise': conv(inputs, inputs, 3, stride, groups=inputs),
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
    def __init__(self, channels, stride=1, shortcut='conv'):
        super().__init__()
        self.shortcut = shortcut
        if shortcut == 'conv':
            self.conv, self.bn = conv(channels[0], channels[3], 1, stride), norm(channels[3])
        for i in range(3):
            layer = SeparableConv(channels[i], channels[i + 1], stride if i == 2 else 1, shortcut != 'none')
            setattr(self, f'sep_conv{i + 1}', layer)

    def forward(self, x):
        inner = self.sep_conv2(self.sep_conv1(x))
        y = self.sep_conv3(inner)
        if self.shortcut != 'none':
            y = y + (self.bn(self.conv(x)) if self.shortcut == 'conv' else x)
        return y, inner


class Xception65(nn.Module):
    """Output stride 32; decoders read the second separable convolution of blocks 2 and 3, and the middle flow's output."""

    channels = (256, 728, 728, 2048)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 32, 3, 2), norm(32)
        self.conv2, self.bn2 = conv(32, 64, 3), norm(64)
        self.block1 = XceptionBlock((64, 128, 128, 128), 2)
        self.block2 = XceptionBlock((128, 256, 256, 256), 2)
        self.block3 = XceptionBlock((256, 728, 728, 728), 2)
        for i in range(4, 20):
            setattr(self, f'block{i}', XceptionBlock((728,) * 4, shortcut='sum'))
        self.block20 = XceptionBlock((728, 728, 1024, 1024), 2)
        self.block21 = XceptionBlock((1024, 1536, 1536, 2048), shortcut='none')

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
    """Branches side by side, then each becomes the sum of all; bilinear with aligned corners towards the finer ones."""

    def __init__(self, widths):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(4))) for width in widths)
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
                    total = total + (x if source < target else F.interpolate(x, size, mode='bilinear', align_corners=True))
            outputs.append(F.relu(total))
        return outputs


class HRNet(nn.Module):
    channels = (48, 96, 192, 384)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 3, 2), norm(64)
        self.conv2, self.bn2 = conv(64, 64, 3, 2), norm(64)
        self.layer1 = nn.Sequential(*(Bottleneck(64 if i == 0 else 256, 64, 1, 1) for i in range(4)))
        for i, count in enumerate((1, 4, 3), 1):
            new = nn.Sequential(conv_norm_relu(self.channels[i - 1] if i > 1 else 256, self.channels[i], 3, 2))
            old = [conv_norm_relu(256, 48, 3)] if i == 1 else [None] * i
            setattr(self, f'transition{i}', nn.ModuleList([*old, new]))
            setattr(self, f'stage{i + 1}', nn.Sequential(*(HRModule(self.channels[: i + 1]) for _ in range(count))))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = [self.layer1(x)]
        for i in range(1, 4):
            transition = getattr(self, f'transition{i}')
            last = features[-1]
            features = [x if layer is None else layer(x) for layer, x in zip(transition, features, strict=False)]
            features = getattr(self, f'stage{i + 1}')([*features, transition[i](last)])
        return features


def separable5x5(inputs, outputs):
    layers = nn.Sequential(conv_norm_relu(inputs, inputs, 5, groups=inputs), conv(inputs, outputs), norm(outputs), nn.ReLU())
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
    """The joined feature comes behind the decoder's own."""

    def __init__(self, channels, projected, width, rates, window):
        super().__init__()
        self.aspp = ASPP(channels[-1], rates, window)
        skips = channels[-2::-1][-len(projected) :]
        self.project = nn.ModuleList(conv_norm_relu(n, m) for n, m in zip(skips, projected, strict=True))
        inputs = [256] + [width] * (len(projected) - 1)
        self.fuse = nn.ModuleList(separable5x5(n + m, width) for n, m in zip(inputs, projected, strict=True))

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
            {name: nn.Sequential(separable5x5(inputs, width), conv(width, count, bias=True)) for name, count in outputs.items()}
        )


class Bowenc0221(nn.Module):
    """Three joins at output stride 32, two at 16.

    Args:
      backbone: gives features of strides 4, 8, 16 and the last.
      output_stride: of the last.
      crop: (height, width) in pixels that the pooling averages over.
      head_width: of the instance heads.
    """

    def __init__(self, backbone, output_stride, crop, num_classes=19, head_width=32):
        super().__init__()
        rates, num_skips = ((3, 6, 9), 3) if output_stride == 32 else ((6, 12, 18), 2)
        window = tuple((n - 1) // output_stride + 1 for n in crop)
        self.backbone = backbone
        channels = backbone.channels
        self.decoder = nn.ModuleDict(
            {
                'semantic_decoder': Decoder(channels, (128, 64, 32)[-num_skips:], 256, rates, window),
                'instance_decoder': Decoder(channels, (64, 32, 16)[-num_skips:], 128, rates, window),
                'semantic_head': Head(256, 256, {'semantic': num_classes}),
                'instance_head': Head(128, head_width, {'center': 1, 'offset': 2}),
            }
        )

    def forward(self, image):
        features = self.backbone(image)
        semantic = self.decoder['semantic_decoder'](features)
        instance = self.decoder['instance_decoder'](features)
        heads = {**self.decoder['semantic_head'].classifier, **self.decoder['instance_head'].classifier}
        size = image.shape[2:]
        outputs = {name: heads[name](semantic if name == 'semantic' else instance) for name in HEADS}
        factor = (size[0] - 1) // (outputs['offset'].shape[2] - 1)
        outputs = {name: F.interpolate(x, size, mode='bilinear', align_corners=True) for name, x in outputs.items()}
        return {**outputs, 'offset': outputs['offset'] * factor}


# detectron2, projects/Panoptic-DeepLab


class ConvNorm(nn.Conv2d):
    """A convolution that owns its BatchNorm and applies a ReLU where told."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, dilation=1, groups=1, has_relu=True):
        super().__init__(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, False)
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
        self.shortcut = ConvNorm(inputs, 4 * width, 1, stride, has_relu=False) if inputs != 4 * width else None

    def forward(self, x):
        y = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class DetectronResNet(nn.Module):
    """ResNet-52: three 3x3 and a max-pool; output stride 16 with dilations 2, 4, 8 in the last stage."""

    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict({'conv1': ConvNorm(3, 64, 3, 2), 'conv2': ConvNorm(64, 64, 3), 'conv3': ConvNorm(64, 128, 3)})
        inputs = 128
        for i, count in enumerate((3, 4, 6, 3)):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and i in (1, 2) else 1
                blocks.append(DetectronBlock(inputs, 64 * 2**i, stride, 2 ** (block + 1) if i == 3 else 1))
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
        atrous = [Depthwise(2048, 256, 3, rate) if is_separable else ConvNorm(2048, 256, 3, 1, rate) for rate in (6, 12, 18)]
        pooling = nn.Sequential(nn.AvgPool2d(window, 1), conv(2048, 256, bias=True), nn.ReLU())
        self.convs = nn.ModuleList([ConvNorm(2048, 256), *atrous, pooling])
        self.project = ConvNorm(5 * 256, 256)

    def forward(self, x):
        branches = [branch(x) for branch in self.convs]
        branches[-1] = F.interpolate(branches[-1], x.shape[2:], mode='bilinear', align_corners=False)
        return self.project(torch.cat(branches, 1))


class DetectronDecoder(nn.Module):
    """The joined feature comes before the decoder's own."""

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
    """The centre head is never separable."""

    def __init__(self, window, is_separable):
        super().__init__(128, window, is_separable)
        self.center_head = fusion(128, 32, False, 128)
        self.center_predictor = conv(32, 1, bias=True)
        self.offset_head = fusion(128, 32, is_separable, 128)
        self.offset_predictor = conv(32, 2, bias=True)


class Detectron2(nn.Module):
    """Args: crop, (height, width) in pixels that the pooling averages over."""

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
            'center': self.ins_embed_head.center_predictor(self.ins_embed_head.center_head(instance)),
            'offset': self.ins_embed_head.offset_predictor(self.ins_embed_head.offset_head(instance)),
        }
        outputs = {name: F.interpolate(x, scale_factor=4, mode='bilinear', align_corners=False) for name, x in outputs.items()}
        return {**outputs, 'offset': outputs['offset'] * 4}


def draw_image(size, batch=1, seed=1):
    """Float32 [batch, 3, height, width], smooth as photographs are: noise alone averages out in deep layers."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 1, (batch, 3, 7, 9)).astype(np.float32))
    fine = torch.from_numpy(rng.normal(0, 0.3, (batch, 3, *size)).astype(np.float32))
    return F.interpolate(coarse, size, mode='bilinear', align_corners=True) + fine


# Keys of the last BatchNorm of residual branches, and of the last convolutions.
RESIDUAL = re.compile(
    r'.*(layer\d\.\d+\.bn3|branches\.\d\.\d\.bn2|conv3\.norm|sep_conv3\.block\.bn_point'
    r'|features\.\d+\.(conv\.3|block\.[23]\.1))\.weight'
)
PREDICTORS = re.compile(r'.*(classifier\.\w+\.1|predictor)\.weight')


def draw_weights(network, seed=0):
    """Draws all weights, and statistics of BatchNorm near those of random images, so that activations stay near 1.

    They are drawn so that rounding does not grow from layer to layer until no two programs agree: residual branches are weaker
    than what they are added to, as in trained networks, and no channel is divided by a deviation near 0.
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
        network(draw_image((129, 129), 2, seed))
    for hook in hooks:
        hook.remove()
    return network
