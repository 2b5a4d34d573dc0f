"""DeepLabv3+ of tensorflow/models' research/deeplab on Xception-65, with the scopes of TF-slim."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_networks.layers import conv


class SlimConv(nn.Module):
    """A convolution in a scope with its BatchNorm."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, rate=1, groups=1, epsilon=1e-5):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride, rate, groups)
        self.BatchNorm = nn.BatchNorm2d(outputs, epsilon)

    def forward(self, x):
        return self.BatchNorm(self.conv(x))


def add_separable(scope, name, inputs, outputs, stride=1, rate=1, epsilon=1e-5):
    """Adds a depthwise and a pointwise convolution to a scope."""
    scope[f'{name}_depthwise'] = SlimConv(inputs, inputs, 3, stride, rate, inputs, epsilon)
    scope[f'{name}_pointwise'] = SlimConv(inputs, outputs, epsilon=epsilon)


def run_separable(scope, name, x):
    return F.relu(scope[f'{name}_pointwise'](F.relu(scope[f'{name}_depthwise'](x))))


class XceptionModule(nn.ModuleDict):
    """Three separable convolutions; ReLUs come first, at the end of the network after each part."""

    def __init__(self, channels, stride=1, rate=1, shortcut='conv'):
        super().__init__()
        self.kind = shortcut
        for i in range(3):
            is_last = i == 2
            add_separable(
                self,
                f'separable_conv{i + 1}',
                channels[i],
                channels[i + 1],
                stride if is_last else 1,
                rate,
                1e-3,
            )
        if shortcut == 'conv':
            self['shortcut'] = SlimConv(channels[0], channels[3], 1, stride, epsilon=1e-3)

    def forward(self, x):
        y, seen = x, []
        for i in (1, 2, 3):
            name = f'separable_conv{i}'
            if self.kind == 'none':
                y = run_separable(self, name, y)
            else:
                y = self[f'{name}_pointwise'](self[f'{name}_depthwise'](F.relu(y)))
            seen.append(y)
        if self.kind != 'none':
            y = y + (self['shortcut'](x) if self.kind == 'conv' else x)
        return y, seen[1]


def make_unit(*arguments, **keywords):
    return nn.ModuleDict({'xception_module': XceptionModule(*arguments, **keywords)})


class TensorflowDeepLab(nn.Module):
    """DeepLabv3+ at output stride 16 with separable convolutions in ASPP and decoder."""

    def __init__(self, num_classes=21):
        super().__init__()
        entry = nn.ModuleDict(
            {
                'conv1_1': SlimConv(3, 32, 3, 2, epsilon=1e-3),
                'conv1_2': SlimConv(32, 64, 3, epsilon=1e-3),
            }
        )
        inputs = 64
        for i, width in enumerate((128, 256, 728), 1):
            unit = make_unit((inputs, width, width, width), 2)
            entry[f'block{i}'] = nn.ModuleDict({'unit_1': unit})
            inputs = width
        units = {f'unit_{i}': make_unit((728,) * 4, shortcut='sum') for i in range(1, 17)}
        first = make_unit((728, 728, 1024, 1024))
        last = make_unit((1024, 1536, 1536, 2048), rate=2, shortcut='none')
        self.xception_65 = nn.ModuleDict(
            {
                'entry_flow': entry,
                'middle_flow': nn.ModuleDict({'block1': nn.ModuleDict(units)}),
                'exit_flow': nn.ModuleDict(
                    {
                        'block1': nn.ModuleDict({'unit_1': first}),
                        'block2': nn.ModuleDict({'unit_1': last}),
                    }
                ),
            }
        )
        self.aspp0 = SlimConv(2048, 256)
        self.scopes = nn.ModuleDict()
        for i, rate in enumerate((6, 12, 18), 1):
            add_separable(self.scopes, f'aspp{i}', 2048, 256, rate=rate)
        self.image_pooling = SlimConv(2048, 256)
        self.concat_projection = SlimConv(5 * 256, 256)
        self.decoder = nn.ModuleDict({'feature_projection0': SlimConv(256, 48)})
        add_separable(self.decoder, 'decoder_conv0', 256 + 48, 256)
        add_separable(self.decoder, 'decoder_conv1', 256, 256)
        self.logits = nn.ModuleDict({'semantic': conv(256, num_classes, bias=True)})

    def list_arrays(self):
        """Lists the variables as TensorFlow stores them, by their names."""
        kinds = {
            'weight': 'gamma',
            'bias': 'beta',
            'running_mean': 'moving_mean',
            'running_var': 'moving_variance',
        }
        arrays = {}
        for key, value in self.state_dict().items():
            *scopes, kind = key.removeprefix('scopes.').split('.')
            value = value.numpy()
            if kind == 'num_batches_tracked':
                continue
            if scopes[-1] == 'BatchNorm':
                name = kinds[kind]
            elif kind == 'bias':
                name = 'biases'
            elif scopes[-2].endswith('_depthwise'):
                name, value = 'depthwise_weights', value.transpose(2, 3, 0, 1)
            else:
                name, value = 'weights', value.transpose(2, 3, 1, 0)
            scopes = [scope for scope in scopes if scope != 'conv']
            arrays['/'.join((*scopes, name))] = value
        return arrays

    def forward(self, image):
        x = image
        for i in (1, 2):
            x = F.relu(self.xception_65['entry_flow'][f'conv1_{i}'](x))
        skip = None
        for flow in ('entry_flow', 'middle_flow', 'exit_flow'):
            for name, block in self.xception_65[flow].items():
                for unit in block.values() if name.startswith('block') else ():
                    x, inner = unit['xception_module'](x)
                    if (flow, name) == ('entry_flow', 'block2'):
                        skip = inner
        x = self._gather_context(x)
        skip = F.relu(self.decoder['feature_projection0'](skip))
        x = torch.cat([_resize(x, skip.shape[2:]), skip], 1)
        for i in (0, 1):
            x = run_separable(self.decoder, f'decoder_conv{i}', x)
        return {'semantic': _resize(self.logits['semantic'](x), image.shape[2:])}

    def _gather_context(self, x):
        pooled = F.relu(self.image_pooling(x.mean((2, 3), keepdim=True)))
        branches = [pooled.expand(-1, -1, *x.shape[2:]), F.relu(self.aspp0(x))]
        branches += [run_separable(self.scopes, f'aspp{i}', x) for i in (1, 2, 3)]
        return F.relu(self.concat_projection(torch.cat(branches, 1)))


def _resize(x, size):
    return F.interpolate(x, size, mode='bilinear', align_corners=True)
