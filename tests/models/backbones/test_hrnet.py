"""HRNet: counts of the originals, any image size, fusion of branches, atrous consistency."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from pdl_jax.models.backbones.hrnet import HRModule, HRNet, HRNetHead
from pdl_jax.models.blocks import LayerOptions
from pdl_jax.ops.resize import resize_bilinear
from tests.models.backbones import probe


class _Classifier(nn.Module):
    """The ImageNet network up to the pooling."""

    width: int

    @nn.compact
    def __call__(self, x, *, train):
        features = HRNet(self.width, upsampling='nearest', name='backbone')(x, train=train)
        return {'head': HRNetHead(name='head')(features, train=train)}


# The classifiers' as published; without their own layers recounted.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('width', 'trunk', 'classifier'),
    [(18, 9_562_260, 21_299_004), (32, 29_305_536, 41_232_680), (48, 65_325_120, 77_469_864)],
)
def test_parameter_counts(width, trunk, classifier):
    params = probe.make_shapes(_Classifier(width))['params']
    counts = {key: sum(x.size for x in jax.tree.leaves(tree)) for key, tree in params.items()}
    assert counts['backbone'] == trunk
    assert counts['backbone'] + counts['head'] + 2048 * 1000 + 1000 == classifier


@pytest.mark.slow
def test_multiply_adds():
    for size, gmacs in (((224, 224), 16.22), ((1025, 2049), 689.06)):
        assert probe.trace(HRNet(48), size).multiply_adds == pytest.approx(gmacs * 1e9, rel=1e-3), (
            size
        )
    # The only published one, 17.3.
    classifier = probe.trace(_Classifier(48), (224, 224))
    assert classifier.multiply_adds + 2048 * 1000 == pytest.approx(17.28e9, rel=1e-3)
    assert classifier.shapes == {'head': (7, 7, 2048)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('output_stride', 'upsampling'), [(8, 'nearest'), (16, 'bilinear'), (32, 'nearest')]
)
def test_output_shapes_at_any_size(output_stride, upsampling):
    module = HRNet(32, (1, 1, 1), upsampling, output_stride, width_multiplier=0.125)
    for size in ((65, 97), (50, 41)):
        strides = [stride for stride in (4, 8, 16, 32) if stride <= output_stride]
        expected = {f'stride{s}': (*(-(-n // s) for n in size), s) for s in strides}
        expected['last'] = (*(-(-n // output_stride) for n in size), 32)
        assert probe.trace(module, size).shapes == expected


@pytest.mark.slow
def test_atrous_consistency_without_upward_fusions():
    """A smaller output stride gives the same features, only more of them, if none is interpolated.

    The upward fusions are zeroed: between the pixels of a coarse branch a bilinear map differs from
    what that branch computes densely.
    """

    def make(output_stride):
        return HRNet(32, (0, 0, 1), output_stride=output_stride, width_multiplier=0.125)

    variables = traverse_util.flatten_dict(probe.make_variables(probe.make_shapes(make(32))))
    silenced = [
        path
        for path in variables
        if 'fusion' in path[-3] and '_conv' not in path[-3] and path[-1] == 'scale'
    ]
    assert len(silenced) == 6
    variables.update({path: np.zeros_like(variables[path]) for path in silenced})
    variables = traverse_util.unflatten_dict(variables)
    image = probe.make_image(65, 65)
    features = {}
    for stride in (8, 16, 32):
        module = make(stride)
        features[stride] = jax.jit(lambda v, x, m=module: m.apply(v, x, train=False))(
            variables, image
        )
    for stride in (8, 16):
        for key, dense in features[stride].items():
            step = 32 // stride if key == 'last' else 1
            expected = features[32][key]
            tolerance = 1e-5 * float(jnp.max(expected))
            assert tolerance > 0
            np.testing.assert_allclose(
                dense[:, ::step, ::step], expected, atol=tolerance, err_msg=f'{stride} {key}'
            )


@pytest.mark.parametrize('upsampling', ['bilinear', 'nearest'])
def test_a_fresh_module_adds_projections_of_the_other_branches(upsampling):
    """Blocks start as identities, so that a module is its fusion."""
    rng = np.random.default_rng(0)
    fine, coarse = (
        rng.uniform(size=(1, *shape)).astype(np.float32) for shape in ((5, 8, 2), (3, 4, 4))
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

    for output, expected in zip(*compute(), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_wrong_attributes_and_features_are_refused():
    with pytest.raises(
        ValueError, match="HRNet upsampling must be one of .*'nearest'.*not 'cubic'"
    ):
        HRNet(upsampling='cubic')
    with pytest.raises(ValueError, match='HRNet output_stride must be one of .*not 64'):
        HRNet(output_stride=64)
    with pytest.raises(ValueError, match=r"output_stride=32.*\['last', 'stride4'\]"):
        HRNetHead().init(
            jax.random.key(0),
            {'stride4': jnp.zeros((1, 2, 2, 8)), 'last': jnp.zeros((1, 2, 2, 8))},
            train=False,
        )
