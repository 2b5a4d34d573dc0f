"""kMaX-DeepLab with weights by the rule of the reference data, as the PyTorch program has it."""

import gzip
import json

import numpy as np

from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import check_account, choose_network, load
from pdl_jax.convert.kmax_pytorch import SOURCE
from tests.golden_rule import load_rule


def read_shapes(shared_dir, name):
    """Keys and shapes of a published file, such as 'r50_coco'."""
    path = shared_dir / 'golden' / 'kmax' / f'state_dict_{name}.json.gz'
    with gzip.open(path) as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def draw_weights(shared_dir, name, salt=0):
    rule = load_rule(shared_dir)
    return {key: rule.value(key, s, salt) for key, s in read_shapes(shared_dir, name).items()}


def find_preset(name):
    return f'kmax_pytorch/{name.replace("r50", "resnet50")}'


def convert(arrays, name):
    """Returns the options and the variables of the network that the arrays fill."""
    conversion = choose_network(Contents(arrays), SOURCE, find_preset(name))
    check_account(conversion)
    return conversion, load(conversion, Contents(arrays))


def draw_image(shared_dir, batch, size, salt):
    """f32[B, H, W, 3], normalised."""
    image = load_rule(shared_dir).image('image', (batch, 3, *size), salt)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))
