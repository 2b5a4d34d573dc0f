"""Checkpoints of Axial-DeepLab and MaX-DeepLab in DeepLab2 fill the networks."""

import jax
import numpy as np
import pytest

from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import choose_network, compare, load
from pdl_jax.convert.networks import Network
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.presets import make_options
from tests.convert.deeplab2_keys import (
    count_parameters,
    list_axial,
    list_axial_swidernet,
    list_max,
    list_max_encoder,
    list_max_s,
    project_context,
    put_under,
)
from tests.convert.test_convert_deeplab2 import SUFFIX, list_network, make_contents
from tests.models.axial_goldens import AxialGolden
from tests.models.test_max_deeplab import _RENAMES as MAX_RENAMES
from tests.models.test_max_deeplab import HEADS

SOURCE = SOURCES['deeplab2']


def test_the_listed_keys_have_the_parameters_of_the_originals():
    # Counted in DeepLab2.
    counts = {'s': 11_466_912, 'l': 43_714_048}
    for size, multiplier in (('s', 0.5), ('l', 1.0)):
        assert count_parameters(list_axial(multiplier, False)) == counts[size]
    assert count_parameters(list_max_s()) == 41_343_424
    assert count_parameters(list_axial_swidernet()) == 136_399_392
    assert count_parameters(list_max_encoder('_extra')) == 61_726_624


def name_attributes(name):
    """The key of a variable by its name: layers are attributes that begin with '_'."""
    *layers, last = name.split('/')
    return '/'.join([f'_{layer}' for layer in layers] + [last])


@pytest.mark.parametrize(
    ('name', 'keys'),
    [
        ('axial_resnet_s_65x65', put_under('encoder', list_axial(0.5, False))),
        ('max_deeplab_s_backbone_65x97', put_under('encoder', list_max_s())),
        ('max_deeplab_s_65x65', list_max_encoder('_extra')),
    ],
)
def test_the_listed_keys_are_those_of_the_variables_of_deeplab2(name, keys, shared_dir):
    shapes = AxialGolden(shared_dir, name).shapes
    found = {
        f'encoder/{name_attributes(name.partition("/")[2])}': tuple(shape)
        for name, shape in shapes.items()
    }
    assert found == keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'options', 'renames'),
    [
        ('axial_resnet_s_65x65', make_options('imagenet/axial_resnet_s'), ()),
        ('max_deeplab_s_65x65', MaXNetworkOptions(), MAX_RENAMES),
    ],
)
def test_values_are_those_that_have_the_outputs_of_deeplab2(name, options, renames, shared_dir):
    golden = AxialGolden(shared_dir, name)
    contents = Contents(
        {
            f'encoder/{name_attributes(key)}{SUFFIX}': value
            for key, value in golden.draw_arrays().items()
        }
    )
    network = Network('', options)
    conversion = compare(contents, SOURCE, network)
    account = conversion.account
    assert not account.unexpected and not account.mismatched
    assert {path.split('/')[1] for path in account.missing} <= set(HEADS)
    found = load(conversion, contents)
    if conversion.is_backbone_only:
        found = {kind: tree['backbone'] for kind, tree in found.items()}
    # These variables give DeepLab2's features in the tests of the networks.
    expected = golden.make_variables(found, renames)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('preset', 'keys'),
    [
        (
            'axial_deeplab_s_os16',
            list_network(list_axial(0.5, True), (128, 256, 1024), 19),
        ),
        (
            'max_deeplab_s_backbone_os16',
            project_context(list_network(list_max_s(), (256, 512, 2048), 19), 2048),
        ),
        (
            'axial_swidernet_1_1_1_os16',
            project_context(list_network(list_axial_swidernet(), (256, 512, 2048), 19), 2048),
        ),
    ],
)
def test_whole_networks_are_accounted_for(preset, keys):
    conversion = choose_network(make_contents(keys), SOURCE, f'deeplab2/{preset}')
    account = conversion.account
    assert not account.num_faults, (account.unexpected, account.missing, account.mismatched)
    assert (len(account.loaded), conversion.num_classes) == (len(keys), 19)


@pytest.mark.slow
@pytest.mark.parametrize('is_beta', [False, True])
def test_encoders_alone_are_backbones(is_beta):
    keys = {f'encoder/{key}': shape for key, shape in list_axial(1.0, is_beta).items()}
    conversion = choose_network(make_contents(keys), SOURCE, 'imagenet/axial_resnet_l')
    assert conversion.is_backbone_only and not conversion.account.num_faults
    assert conversion.network.options.backbone.stem == ('beta' if is_beta else None)


@pytest.mark.slow
@pytest.mark.parametrize('infix', ['', '_extra'])
def test_max_deeplab_is_accounted_for(infix):
    keys = list_max(infix)
    conversion = choose_network(make_contents(keys), SOURCE, 'deeplab2/max_deeplab_s_os16')
    account = conversion.account
    assert not account.num_faults, (account.unexpected, account.missing, account.mismatched)
    assert (len(account.loaded), conversion.num_classes) == (len(keys), 133)
    found = {path: origin.key for path, origin in account.loaded.items()}
    layer = 'params/exchange2/queries_query_key_value/conv/kernel'
    assert found[layer] == (
        f'encoder/_stage5/_block2_transformer/_memory_qkv_conv_bn/_conv/kernel{SUFFIX}'
    )
