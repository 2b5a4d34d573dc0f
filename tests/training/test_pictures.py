"""Pictures show the same images at every call, with the predictions of the moment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.experiment import EvaluateOptions
from pdl_jax.prediction.inference import Inference
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.runtime.sharding import make_mesh
from pdl_jax.systems.drawing.colors import color_panoptic
from pdl_jax.systems.system import LabelMaps, System
from pdl_jax.training.pictures import PictureMaker


@dataclasses.dataclass(frozen=True)
class _Constant(System):
    """Gives every pixel the class that its variable says."""

    def init(self, rng):
        return {'params': {'class': jnp.zeros((), jnp.int32)}}

    def loss(self, variables, samples, *, rng):
        raise NotImplementedError

    def outputs(self, variables, images):
        return {'class': jnp.full(images.shape[:3], variables['params']['class'])}

    def label_maps(self, outputs, *, size):
        semantic = outputs['class']
        ones = jnp.ones(semantic.shape)
        return LabelMaps(semantic * self.label_format.label_divisor, semantic, ones, ones)


@pytest.fixture
def source(data):
    return open_split(data, 'val')


def _make_pictures(source):
    inference = Inference.for_images(
        _Constant(source.spec.label_format),
        AugmentOptions((48, 64)),
        EvaluateOptions(),
        source.max_size,
    )
    return PictureMaker(inference, source, make_mesh(devices=jax.devices()[:2]))


def _make_variables(index):
    return {'params': {'class': np.int32(index)}}


def test_images_and_targets_stay_and_predictions_follow_the_variables(source):
    pictures = _make_pictures(source)
    first, second = pictures(_make_variables(0)), pictures(_make_variables(5))
    names = {f'{kind}_{i}' for kind in ('image', 'target', 'prediction') for i in (0, 1)}
    assert set(first) == set(second) == names
    colors, label_format = source.spec.make_palette(), source.spec.label_format
    for i in (0, 1):
        for kind in ('image', 'target'):
            np.testing.assert_array_equal(first[f'{kind}_{i}'], second[f'{kind}_{i}'])
        for found, index in ((first, 0), (second, 5)):
            labels = np.full((48, 64), index * label_format.label_divisor, np.int32)
            prediction = color_panoptic(labels, label_format, colors)
            np.testing.assert_array_equal(found[f'prediction_{i}'], prediction)
        # They are the first images of the split, stretched.
        image, panoptic = source.decode(i)
        expected = 255.0 * (image - image.min()) / (int(image.max()) - image.min())
        np.testing.assert_allclose(first[f'image_{i}'], expected, atol=1.1)
        target = color_panoptic(panoptic, label_format, colors)
        np.testing.assert_array_equal(first[f'target_{i}'], target)


def test_a_damaged_image_has_no_picture_and_ends_nothing(source, monkeypatch):
    decode = RecordSource.decode

    def decode_all_but_one(self, index):
        if index == 0:
            raise ValueError('a.jpg: damaged')
        return decode(self, index)

    monkeypatch.setattr(RecordSource, 'decode', decode_all_but_one)
    pictures = _make_pictures(source)
    assert set(pictures(_make_variables(1))) == {'image_1', 'target_1', 'prediction_1'}
