"""HRNet: the counts of the originals, any image size, what joins the branches, atrous consistency."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.models.backbones.hrnet import HRModule, HRNet, HRNetHead
from pdl_jax.models.blocks import Conv, LayerOptions
from pdl_jax.ops.resize import resize_bilinear

TRUNKS = {18: 9_562_260, 32: 29_305_536, 48: 65_325_120}
CLASSIFIERS = {18: 21_299_004, 32: 41_232_680, 48: 77_469_864}


def _count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


class _MacCounter:
    """Adds up the multiply-adds of convolutions called in its context."""

    def __enter__(self):
        self.total = 0
        self._context = nn.intercept_methods(self._intercept)
        self._context.__enter__()
        return self

    def __exit__(self, *error):
        return self._context.__exit__(*error)

    def _intercept(self, call, args, kwargs, context):
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv) and context.method_name == '__call__':
            channels = 1 if context.module.is_depthwise else args[0].shape[-1]
            self.total += math.prod(y.shape) * context.module.kernel_size**2 * channels
        return y


def _init(module, size, **arguments):
    image = jnp.zeros((1, *size, 3))
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), image, train=False, **arguments))


def _tiny(**attributes):
    return HRNet(module_counts=(1, 1, 1), width_multiplier=0.125, **attributes)


@pytest.mark.parametrize('width', TRUNKS)
def test_counts_of_the_classifier(width):
    """224 x 224; GMACs of W48 as published (17.3) and, for the trunk, recounted."""
    with _MacCounter() as trunk_macs:
        features, variables = _init(HRNet(width), (224, 224))
    head = HRNetHead()
    with _MacCounter() as head_macs:
        x, head_variables = jax.eval_shape(lambda f: head.init_with_output(jax.random.key(0), f, train=False), features)
    assert x.shape == (1, 7, 7, 2048)
    assert _count(variables['params']) == TRUNKS[width]
    assert _count(variables['params']) + _count(head_variables['params']) + 1000 * 2049 == CLASSIFIERS[width]
    if width == 48:
        assert trunk_macs.total == pytest.approx(16.22e9, rel=1e-3)
        assert trunk_macs.total + head_macs.total + 1000 * 2048 == pytest.approx(17.28e9, rel=1e-3)


@pytest.mark.parametrize(('size', 'gmacs'), [((512, 1024), 169.44), ((1025, 2049), 689.06)])
def test_multiply_adds_at_street_sizes(size, gmacs):
    with _MacCounter() as macs:
        _init(HRNet(48), size)
    assert macs.total == pytest.approx(gmacs * 1e9, rel=1e-4)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('upsampling', ['bilinear', 'nearest'])
def test_output_shapes_at_any_size(output_stride, upsampling):
    module = _tiny(width=32, output_stride=output_stride, upsampling=upsampling)
    for size in ((65, 97), (50, 41)):
        features, variables = _init(module, size)
        strides = [stride for stride in (4, 8, 16, 32) if stride <= output_stride]
        assert set(features) == {'last', *(f'stride{stride}' for stride in strides)}
        for stride, width in zip(strides, (4, 8, 16, 32), strict=False):
            assert features[f'stride{stride}'].shape == (1, *(-(-n // stride) for n in size), width)
        assert features['last'].shape == (1, *(-(-n // output_stride) for n in size), 32)
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, _init(_tiny(width=32), (33, 33))[1])


def test_atrous_consistency_without_upward_fusions():
    """A smaller output stride gives the same features, only more of them, where no pixel was interpolated.

    Up-sampled branches are silenced: what a bilinear map has between the pixels of a coarse branch is not what that branch
    computes there when it runs densely.
    """
    image = jax.random.normal(jax.random.key(1), (1, 65, 65, 3))
    attributes = {'width': 32, 'module_counts': (0, 0, 1), 'width_multiplier': 0.125}
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        keys = [key.key for key in path]
        if keys[-1] == 'kernel':
            return rng.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape).astype(np.float32)
        is_upward = keys[-3].startswith('fusion') and '_conv' not in keys[-3]
        value = 0.0 if is_upward and keys[-1] in ('scale', 'bias') else rng.uniform(0.2, 0.8, leaf.shape)
        return np.full(leaf.shape, value, np.float32)

    _, shapes = _init(HRNet(**attributes), (65, 65))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    features = {}
    for stride in (8, 16, 32):
        module = HRNet(**attributes, output_stride=stride)
        features[stride] = jax.jit(lambda v, x, m=module: m.apply(v, x, train=False))(variables, image)
    for stride in (8, 16):
        for key in features[stride]:
            step = 32 // stride if key == 'last' else 1
            dense, reference = features[stride][key][:, ::step, ::step], features[32][key]
            scale = float(jnp.max(jnp.std(reference, axis=(1, 2))))
            assert scale > 1e-3
            np.testing.assert_allclose(dense, reference, atol=1e-4 * scale, err_msg=f'{stride} {key}')


@pytest.mark.parametrize('upsampling', ['bilinear', 'nearest'])
def test_a_fresh_module_adds_projections_of_the_other_branches(upsampling):
    """Blocks start as identities, so that a module is its fusion."""
    fine, coarse = (
        jax.random.uniform(key, (1, *size, width))
        for key, size, width in zip(jax.random.split(jax.random.key(0)), ((5, 8), (3, 4)), (2, 4), strict=True)
    )
    module = HRModule(2, upsampling, 32, LayerOptions(norm_epsilon=0.0))

    @jax.jit
    def compute():
        outputs, variables = module.init_with_output(jax.random.key(1), [fine, coarse], train=False)
        up = coarse @ variables['params']['fusion2to1']['conv']['kernel'][0, 0]
        if upsampling == 'bilinear':
            up = resize_bilinear(up, (5, 8))
        else:
            up = up[:, np.arange(5) // 2][:, :, np.arange(8) // 2]
        down = jax.lax.conv_general_dilated(
            fine,
            variables['params']['fusion1to2_conv1']['conv']['kernel'],
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        return outputs, [nn.relu(fine + up), nn.relu(coarse + down)]

    for output, reference in zip(*compute(), strict=True):
        np.testing.assert_allclose(output, reference, atol=1e-5)


def test_wrong_attributes_and_features_are_refused():
    with pytest.raises(ValueError, match="HRNet upsampling must be one of .*'nearest'.*not 'cubic'"):
        HRNet(upsampling='cubic')
    with pytest.raises(ValueError, match='HRNet output_stride must be one of .*not 64'):
        HRNet(output_stride=64)
    features, _ = _init(_tiny(width=18, output_stride=16), (33, 33))
    with pytest.raises(ValueError, match='output_stride=32.*stride16'):
        jax.eval_shape(lambda f: HRNetHead().init(jax.random.key(0), f, train=False), features)
