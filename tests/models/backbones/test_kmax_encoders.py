"""The encoders of kMaX-DeepLab in PyTorch: ResNet-50 and ConvNeXt-T, with weights by rule."""

import gzip
import json
import re

import flax
import jax
import numpy as np
import pytest

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.blocks import LayerOptions
from tests.golden_rule import load_rule
from tests.models.backbones import probe

# Our names by the original's.
_RENAMES = (
    (r'stem\.conv1', 'stem/conv'),
    (
        r'res(\d)\.(\d+)\.(conv\d|shortcut)',
        lambda m: f'stage{m[1]}_block{int(m[2]) + 1}/{m[3]}/conv',
    ),
    (r'downsample_layers\.0\.0', 'stem'),
    (r'downsample_layers\.0\.1', 'stem_norm'),
    (
        r'downsample_layers\.(\d)\.(\d)',
        lambda m: f'stage{int(m[1]) + 1}_downsampling/{("norm", "conv")[int(m[2])]}',
    ),
    (r'stages\.(\d)\.(\d+)\.', lambda m: f'stage{int(m[1]) + 1}_block{int(m[2]) + 1}/'),
    (r'gamma', 'layer_scale'),
    (r'dwconv', 'depthwise'),
    (r'pwconv1', 'expand'),
    (r'pwconv2', 'project'),
    (r'conv\.norm', 'norm'),
    (r'running_mean', 'mean'),
    (r'running_var', 'var'),
    (r'\.', '/'),
)
CASES = {
    'r50_coco_64x96': ('resnet50', {'stride_convention': 'detectron2'}),
    'r50_cityscapes_65x129': ('resnet50', {'stride_convention': 'detectron2'}),
    'convnext_tiny_coco_65x97': ('convnext_tiny', {'stem_padding': 'fixed'}),
}


def make_variables(module, shapes, rule):
    """Draws our variables under the original's names; fails if ours are not exactly those."""
    drawn = {}
    for name, shape in shapes.items():
        path = name.removeprefix('backbone.')
        if path == name or path.endswith('num_batches_tracked'):
            continue
        for pattern, replacement in _RENAMES:
            path = re.sub(pattern, replacement, path)
        array = rule.value(name, shape)
        if path.endswith('weight'):
            path = path.removesuffix('weight') + ('scale' if array.ndim == 1 else 'kernel')
        if array.ndim == 2:
            array = array[..., None, None]
        kind = 'batch_stats' if path.endswith(('mean', 'var')) else 'params'
        drawn[f'{kind}/{path}'] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    flat = flax.traverse_util.flatten_dict(probe.make_shapes(module), sep='/')
    assert {key: x.shape for key, x in drawn.items()} == {key: x.shape for key, x in flat.items()}
    return flax.traverse_util.unflatten_dict(drawn, sep='/')


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_features_are_those_of_the_original(case, shared_dir):
    name, attributes = CASES[case]
    rule = load_rule(shared_dir)
    golden = np.load(shared_dir / 'golden' / 'kmax' / f'forward_{case}.npz')
    keys = shared_dir / 'golden' / 'kmax' / f'state_dict_{case.rpartition("_")[0]}.json.gz'
    shapes = json.loads(gzip.decompress(keys.read_bytes()))
    module = make_backbone(name, options=LayerOptions(norm_epsilon=1e-3), **attributes)
    variables = make_variables(module, shapes, rule)
    size = [int(n) for n in case.rpartition('_')[2].split('x')]
    image = rule.image('image', (1, 3, *size), int(golden['image_salt'])).transpose(0, 2, 3, 1)
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, image)
    res5 = features['stride32']
    np.testing.assert_allclose(res5.transpose(0, 3, 1, 2), golden['encoder_res5'], atol=1e-4)
    names = {'res2': 'stride4', 'res3': 'stride8', 'res4': 'stride16', 'stem': 'stem'}
    for original, ours in names.items():
        if f'encoder_{original}_mean_std' in golden:
            x = np.asarray(features[ours])
            found = [x.mean(), x.std(ddof=1)]
            np.testing.assert_allclose(found, golden[f'encoder_{original}_mean_std'], atol=1e-4)
