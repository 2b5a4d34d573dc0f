"""A small Panoptic-DeepLab and its losses in plain PyTorch, written from their definitions.

ResNet-18 of an eighth of the width at output stride 16, arranged as in DeepLab2. Modules bear the
names of ours, by which `load_variables` finds their weights; nothing else is shared. Importing it
skips the importer where torch is missing.
"""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip(
    'torch', reason='the comparison with PyTorch needs it: pip install torch'
)
nn, F = torch.nn, torch.nn.functional
# Layers as small as these only wait for a second thread.
torch.set_num_threads(1)

NORM_MOMENTUM = 0.99
ASPP_RATES = (1, 2, 3)
STAGE_WIDTHS = (8, 16, 32, 64)
WIDTH = 8


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules that networks and losses must agree on; the comparison fails with other values."""

    norm_epsilon: float = 1e-3
    last_dilation: int = 2
    is_corner_aligned: bool = True
    is_pooled_to_mean: bool = True
    is_offset_scaled: bool = True
    top_k_fraction: float = 0.2
    has_semantic_weight: bool = True
    counts_zero_losses: bool = False


class BatchNorm(nn.BatchNorm2d):
    """Remembers how many values each of its statistics is of."""

    def forward(self, x):
        self.count = x.numel() // x.shape[1]
        return super().forward(x)


def conv_norm(inputs, outputs, rules, kernel=1, stride=1, dilation=1, groups=1, has_relu=True):
    padding = dilation * (kernel - 1) // 2
    layers = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        # PyTorch's momentum is the share of the new statistics, ours that of the old.
        norm=BatchNorm(outputs, rules.norm_epsilon, 1 - NORM_MOMENTUM),
    )
    if has_relu:
        layers['relu'] = nn.ReLU()
    return nn.Sequential(layers)


def separable_conv(inputs, outputs, rules, kernel=5):
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_norm(inputs, inputs, rules, kernel, groups=inputs),
            pointwise=conv_norm(inputs, outputs, rules),
        )
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input, subsampled, and projected where its channels differ."""

    def __init__(self, inputs, outputs, stride, dilations, rules):
        super().__init__()
        self.stride = stride
        self.conv1 = conv_norm(inputs, outputs, rules, 3, stride, dilations[0])
        self.conv2 = conv_norm(outputs, outputs, rules, 3, 1, dilations[1], has_relu=False)
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, rules, has_relu=False)

    def forward(self, x):
        shortcut = self.shortcut(x[:, :, :: self.stride, :: self.stride])
        return F.relu(self.conv2(self.conv1(x)) + shortcut)


class Backbone(nn.Module):
    """Strides 2 (stem), 4, 8, 16 and 16 (stages); the last stage dilates in place of striding."""

    def __init__(self, rules):
        super().__init__()
        self.stem = conv_norm(3, STAGE_WIDTHS[0], rules, 7, 2)
        inputs = STAGE_WIDTHS[0]
        for stage, width in enumerate(STAGE_WIDTHS, 2):
            is_last = stage == 5
            after = rules.last_dilation if is_last else 1
            blocks = (
                BasicBlock(inputs, width, 1 if is_last else 2, (1, after), rules),
                BasicBlock(width, width, 1, (after, after), rules),
            )
            for i, block in enumerate(blocks, 1):
                self.add_module(f'stage{stage}_block{i}', block)
            inputs = width

    def forward(self, x):
        x = self.stem(x)
        stages = []
        for stage in range(2, 6):
            x = getattr(self, f'stage{stage}_block1')(x)
            x = getattr(self, f'stage{stage}_block2')(x)
            stages.append(x)
        return stages


class ASPP(nn.Module):
    """1x1, three dilated 3x3 convolutions and the map's mean, `WIDTH` channels each; then a 1x1."""

    def __init__(self, inputs, rules):
        super().__init__()
        self.image_pooling = (
            nn.AdaptiveAvgPool2d(1) if rules.is_pooled_to_mean else nn.AdaptiveMaxPool2d(1)
        )
        self.branch_0 = conv_norm(inputs, WIDTH, rules)
        for i, rate in enumerate(ASPP_RATES, 1):
            self.add_module(f'branch_{i}', conv_norm(inputs, WIDTH, rules, 3, dilation=rate))
        self.pool = conv_norm(inputs, WIDTH, rules)
        self.project = conv_norm(5 * WIDTH, WIDTH, rules)

    def forward(self, x):
        branches = [getattr(self, f'branch_{i}')(x) for i in range(4)]
        branches.append(self.pool(self.image_pooling(x)).expand_as(branches[0]))
        return self.project(torch.cat(branches, 1))


class Decoder(nn.Module):
    """ASPP, then twice: upsample to a finer feature, join with its projection, separable 5x5."""

    def __init__(self, rules):
        super().__init__()
        self.is_corner_aligned = rules.is_corner_aligned
        self.aspp = ASPP(STAGE_WIDTHS[3], rules)
        for stride, inputs in ((8, STAGE_WIDTHS[1]), (4, STAGE_WIDTHS[0])):
            self.add_module(f'project_stride{stride}', conv_norm(inputs, WIDTH, rules))
            self.add_module(f'fuse_stride{stride}', separable_conv(2 * WIDTH, WIDTH, rules))

    def forward(self, stages):
        x = self.aspp(stages[3])
        for stride, feature in ((8, stages[1]), (4, stages[0])):
            x = F.interpolate(
                x, feature.shape[2:], mode='bilinear', align_corners=self.is_corner_aligned
            )
            low = getattr(self, f'project_stride{stride}')(feature)
            x = getattr(self, f'fuse_stride{stride}')(torch.cat([x, low], 1))
        return x


class PanopticDeepLab(nn.Module):
    """Maps images [B, 3, H, W] to full-size 'semantic', 'center' and 'offset' [B, ., H, W]."""

    def __init__(self, num_classes, rules):
        super().__init__()
        self.rules = rules
        self.backbone = Backbone(rules)
        self.semantic_decoder = Decoder(rules)
        self.instance_decoder = Decoder(rules)
        for name, outputs in (('semantic', num_classes), ('center', 1), ('offset', 2)):
            head = OrderedDict(
                fuse=conv_norm(WIDTH, WIDTH, rules, 3), predict=nn.Conv2d(WIDTH, outputs, 1)
            )
            self.add_module(f'{name}_head', nn.Sequential(head))

    def forward(self, image):
        stages = self.backbone(image)
        instance = self.instance_decoder(stages)
        outputs = {
            'semantic': self.semantic_head(self.semantic_decoder(stages)),
            'center': self.center_head(instance),
            'offset': self.offset_head(instance),
        }
        if self.rules.is_offset_scaled:
            # From pixels of the map to pixels of the image; both are square.
            outputs['offset'] = outputs['offset'] * ((image.shape[2] - 1) / (instance.shape[2] - 1))
        corners = self.rules.is_corner_aligned
        return {
            key: F.interpolate(value, image.shape[2:], mode='bilinear', align_corners=corners)
            for key, value in outputs.items()
        }


def loss_of(outputs, targets, ignore_label, rules):
    """1 x hard-pixel cross entropy + 200 x squared error of centres + 0.01 x L1 of offsets.

    Every term of an image is a mean over those of its pixels that have a loss, as in DeepLab2, then
    one over the images.
    """

    def mean(losses):
        count = losses.numel() if rules.counts_zero_losses else int((losses > 0).sum())
        return losses.sum() / max(count, 1)

    labels = targets['semantic'].long()
    entropy = F.cross_entropy(
        outputs['semantic'], labels, reduction='none', ignore_index=ignore_label
    )
    if rules.has_semantic_weight:
        entropy = entropy * targets['semantic_weight']
    center = (outputs['center'][:, 0] - targets['center']) ** 2 * targets['center_weight']
    difference = outputs['offset'].permute(0, 2, 3, 1) - targets['offset']
    offset = difference.abs().mean(-1) * targets['offset_weight']
    total = 0
    for i in range(len(labels)):
        pixels = entropy[i].flatten()
        hardest = pixels.topk(round(rules.top_k_fraction * len(pixels))).values
        total = total + mean(hardest) + 200 * mean(center[i]) + 0.01 * mean(offset[i])
    return total / len(labels)


def load_variables(network, params, batch_stats):
    """Copies our variables, nested dicts, into the modules of the same names; none may be left."""
    names = {
        'kernel': 'weight',
        'scale': 'weight',
        'bias': 'bias',
        'mean': 'running_mean',
        'var': 'running_var',
    }
    state = {key: value for key, value in network.state_dict().items() if 'num_batches' not in key}
    for path, value in [*flatten(params), *flatten(batch_stats)]:
        target = state.pop('.'.join((*path[:-1], names[path[-1]])))
        value = torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)
        assert target.shape == value.shape, path
        target.copy_(value)
    assert not state, f'without a value: {sorted(state)}'


def flatten(tree, path=()):
    """Pairs of path and NumPy array."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, (*path, key))
        else:
            yield (*path, key), np.asarray(value)


def read_gradients(network):
    """The gradients by path as `flatten` gives it, in our layouts."""
    gradients = {}
    for name, parameter in network.named_parameters():
        *path, leaf = name.split('.')
        if leaf == 'weight':
            leaf = 'kernel' if parameter.ndim == 4 else 'scale'
        value = parameter.grad.numpy()
        gradients[(*path, leaf)] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    return gradients


def read_statistics(network, num_steps):
    """Running means and variances by path, as if each batch had counted with its biased variance.

    PyTorch normalises with the biased variance but averages the unbiased one, n / (n - 1) times it;
    Flax averages the biased one. The average is linear in them, and its share of the initial 1 is
    known, so the one follows from the other.
    """
    statistics = {}
    initial = NORM_MOMENTUM**num_steps
    for name, module in network.named_modules():
        if isinstance(module, BatchNorm):
            path = tuple(name.split('.'))
            ratio = (module.count - 1) / module.count
            statistics[(*path, 'mean')] = module.running_mean.numpy()
            statistics[(*path, 'var')] = initial + (module.running_var.numpy() - initial) * ratio
    return statistics
