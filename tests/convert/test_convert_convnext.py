"""ConvNeXt-T of its authors, of timm and of torchvision: one network under three names."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import choose_network, load
from pdl_jax.convert.sources import SOURCES

# Names by layer: of the authors, of timm, of torchvision.
STEM = ('downsample_layers.0.{}', 'stem.{}', 'features.0.{}')
DOWNSAMPLING = ('downsample_layers.{s}.{}', 'stages.{s}.downsample.{}', 'features.{even}.{}')
BLOCK = ('stages.{s}.{i}.{}', 'stages.{s}.blocks.{i}.{}', 'features.{odd}.{i}.{}')
PARTS = {
    'depthwise': ('dwconv', 'conv_dw', 'block.0'),
    'norm': ('norm', 'norm', 'block.2'),
    'expand': ('pwconv1', 'mlp.fc1', 'block.3'),
    'project': ('pwconv2', 'mlp.fc2', 'block.5'),
    'scale': ('gamma', 'gamma', 'layer_scale'),
}
CLASSIFIER = (('norm', 'head'), ('head.norm', 'head.fc'), ('classifier.0', 'classifier.2'))
SIZES = ((3, 96), (3, 192), (9, 384), (3, 768))


def list_shapes(program):
    """Yields names and shapes of weights, in one order for all programs."""
    inputs = 3
    for s, (count, width) in enumerate(SIZES):
        place = {'s': s, 'even': 2 * s, 'odd': 2 * s + 1}
        names = (DOWNSAMPLING if s else STEM)[program]
        size = 2 if s else 4
        norm, conv = ('0', '1') if s else ('1', '0')
        yield f'{names.format(conv, **place)}.weight', (width, inputs, size, size)
        yield f'{names.format(conv, **place)}.bias', (width,)
        for field in ('weight', 'bias'):
            yield f'{names.format(norm, **place)}.{field}', (inputs if s else width,)
        for i in range(count):
            name = {
                key: BLOCK[program].format(part[program], i=i, **place)
                for key, part in PARTS.items()
            }
            yield f'{name["depthwise"]}.weight', (width, 1, 7, 7)
            yield f'{name["norm"]}.weight', (width,)
            yield f'{name["expand"]}.weight', (4 * width, width)
            yield f'{name["project"]}.weight', (width, 4 * width)
            for part, outputs in (('depthwise', 1), ('norm', 1), ('expand', 4), ('project', 1)):
                yield f'{name[part]}.bias', (outputs * width,)
            yield name['scale'], (width, 1, 1) if program == 2 else (width,)
        inputs = width
    norm, head = CLASSIFIER[program]
    yield from ((f'{norm}.weight', (768,)), (f'{norm}.bias', (768,)), (f'{head}.bias', (1000,)))


@pytest.fixture(scope='module')
def expected():
    return convert(2, 'torchvision')


def convert(program, source):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in list_shapes(program)}
    contents = Contents(arrays)
    conversion = choose_network(contents, SOURCES[source], 'imagenet/convnext_tiny')
    assert conversion.is_backbone_only and not conversion.account.num_faults
    assert conversion.network.options.normalization == 'imagenet'
    (ignored,) = conversion.account.ignored.values()
    assert len(ignored) == 3
    return flatten_dict(load(conversion, contents), sep='/')


@pytest.mark.parametrize(('program', 'source'), enumerate(('convnext', 'timm')))
def test_weights_are_those_of_torchvision(program, source, expected):
    found = convert(program, source)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
