"""Comparisons of converted networks with PyTorch."""

import ast

import numpy as np
from flax.traverse_util import flatten_dict

from pdl_jax.convert.conversion import guess_network, load
from pdl_jax.convert.readers import Contents
from pdl_jax.convert.sources import SOURCES
from pdl_jax.models.deeplab import DeepLab
from tests.convert.compiling import run_fast
from tests.convert.torch_networks import HEADS, draw_image, torch


def get_arrays(network):
    return {key: value.numpy() for key, value in network.state_dict().items()}


def check_keys(arrays, path):
    """Checks that keys and shapes are those of a published list."""
    lines = (line.split('\t') for line in path.read_text().splitlines())
    published = {key: ast.literal_eval(shape) for key, shape in lines}
    assert {key: value.shape for key, value in arrays.items()} == published


def convert_arrays(arrays, source):
    """Returns the conversion and the variables of the one network that fits all arrays."""
    contents = Contents(arrays)
    conversion = guess_network(contents, SOURCES[source])
    return conversion, load(conversion, contents)


def check_equal(found, expected):
    """Checks that variables are the same."""
    found, expected = (flatten_dict(x, sep='/') for x in (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def check_heads(network, *, source, preset, crop, size):
    """Converts a network and compares its heads, at full resolution, on a random image."""
    conversion, variables = convert_arrays(get_arrays(network), source)
    assert conversion.network.name == preset
    model = DeepLab(conversion.num_classes, conversion.network.options, pool_crop=crop)

    def run(variables, image):
        return model.upsample(model.apply(variables, image), image.shape[1:3])

    image = draw_image(size)
    outputs = run_fast(run, variables, image.numpy().transpose(0, 2, 3, 1))
    with torch.no_grad():
        expected = network(image)
    assert expected.keys() <= set(HEADS)
    for name in expected:
        reference = expected[name].numpy().transpose(0, 2, 3, 1)
        # Small outputs would hide an error; large ones would have large rounding errors.
        assert 0.05 < reference.std() < 5, (name, reference.std())
        # Offsets are in pixels of the image here, four times those that the head predicts.
        tolerance = 4e-4 if name == 'offset' else 1e-4
        np.testing.assert_allclose(outputs[name], reference, rtol=0, atol=tolerance, err_msg=name)
