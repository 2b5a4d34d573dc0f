"""ResNet-D with the keys of timm, and features of strides 4, 8, 16 and 32."""

import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import conv, norm


class BlockD(nn.Module):
    """A bottleneck whose shortcut averages 2x2 pixels where it strides."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), norm(width)
        self.conv3, self.bn3 = conv(width, 4 * width), norm(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            pool = nn.Identity()
            if stride > 1:
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, conv(inputs, 4 * width), norm(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetD(nn.Module):
    """ResNet-D with a classifier of 1000 classes, which features do not need."""

    def __init__(self, counts=(3, 4, 6, 3)):
        super().__init__()
        layers = [conv(3, 32, 3, 2), norm(32), nn.ReLU(), conv(32, 32, 3), norm(32), nn.ReLU()]
        self.conv1, self.bn1 = nn.Sequential(*layers, conv(32, 64, 3)), norm(64)
        inputs = 64
        for i, count in enumerate(counts):
            blocks = []
            for block in range(count):
                blocks.append(BlockD(inputs, 64 * 2**i, 2 if block == 0 and i > 0 else 1))
                inputs = 256 * 2**i
            setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        features = []
        for i in range(1, 5):
            x = getattr(self, f'layer{i}')(x)
            features.append(x)
        return features
