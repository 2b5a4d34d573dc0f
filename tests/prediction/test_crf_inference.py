"""The CRF between a network's outputs and its label maps, in evaluation and prediction alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.experiment import EvaluateOptions
from pdl_jax.models.options import make_model_options
from pdl_jax.ops.platforms import pin_platform
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.postprocess.dense_crf import refine_images
from pdl_jax.prediction.inference import Inference
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab, PanopticDeepLabOptions
from pdl_jax.systems.refinement import refine_outputs
from pdl_jax.systems.semantic_deeplab import SemanticDeepLab, SemanticDeepLabOptions
from pdl_jax.typing import LabelFormat
from tests.systems.toy_system import ColorOptions

LABEL_FORMAT = LabelFormat(3, thing_classes=(1,), ignore_label=255, label_divisor=256)
MODEL = make_model_options({'resize': 'half_pixel', 'output_stride': 4})
SIZE = (24, 32)
# Strong enough to change many of the pixels of these small images.
CRF = CrfOptions('voc_v2', bilateral_px=10.0, bilateral_color=20.0, num_iterations=3)


def _make_logits():
    return jnp.asarray(np.random.RandomState(0).randn(2, 6, 8, 3), jnp.float32)


class _Semantic(SemanticDeepLab):
    """Answers the same logits to every image."""

    def outputs(self, variables, images):
        return {'semantic': _make_logits()}


class _Panoptic(PanopticDeepLab):
    """Answers the same logits to every image, with one centre in the middle."""

    def outputs(self, variables, images):
        y, x = jnp.mgrid[:6, :8].astype(jnp.float32)
        heat = jnp.zeros((2, 6, 8, 1)).at[:, 3, 4].set(1.0)
        offset = jnp.broadcast_to(jnp.stack([3 - y, 4 - x], -1), (2, 6, 8, 2))
        return {'semantic': _make_logits(), 'center': heat, 'offset': offset}


def _make_images():
    """Two flat colours with an oblique border; the second image is smaller than its canvas."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.where((x + y < 28)[..., None], (200, 40, 90), (60, 150, 100)).astype(np.uint8)
    images = np.stack([image, image])
    images[1, 20:], images[1, :, 27:] = 0, 0
    return images, np.array([SIZE, (20, 27)], np.int32)


def _label(system, crf):
    inference = Inference.for_images(
        system, AugmentOptions(crop_size=SIZE), EvaluateOptions(crf=crf), SIZE
    )
    return jax.jit(lambda image, size: inference.label_maps({}, image, size))(*_make_images())


@pytest.fixture(scope='module')
def refined():
    """The classes of each image by itself."""
    images, sizes = _make_images()
    probabilities = jax.nn.softmax(resize_bilinear(_make_logits(), SIZE, 'half_pixel'))
    refine = jax.jit(lambda *maps: refine_images(*maps, CRF.resolve()))
    classes = np.argmax(refine(probabilities, images, sizes), -1)
    return [x[:height, :width] for x, (height, width) in zip(classes, sizes, strict=True)]


def test_semantic_label_maps_are_those_of_the_refined_probabilities(refined):
    system = _Semantic(LABEL_FORMAT, SemanticDeepLabOptions(SIZE, model=MODEL))
    maps = _label(system, CRF)
    plain = _label(system, CrfOptions())
    for i, classes in enumerate(refined):
        height, width = classes.shape
        assert (maps.semantic[i, :height, :width] == classes).mean() > 0.999
        assert (plain.semantic[i, :height, :width] != classes).mean() > 0.1


def test_things_are_merged_from_the_refined_classes(refined):
    options = PanopticDeepLabOptions(SIZE, model=MODEL)
    maps = _label(_Panoptic(LABEL_FORMAT, options), CRF)
    assert (maps.semantic[0] == refined[0]).mean() > 0.999
    # Stuff of so few pixels is void; the only thing is what is left of the class.
    things = maps.panoptic[0] // LABEL_FORMAT.label_divisor == 1
    np.testing.assert_array_equal(things, maps.semantic[0] == 1)


def test_what_cannot_be_refined_says_so():
    system = ColorOptions(SIZE).make_system(LABEL_FORMAT)
    images = jnp.zeros((1, *SIZE, 3))
    with pytest.raises(ValueError, match='ColorSystem has no class probabilities of pixels'):
        refine_outputs(system, {}, images, jnp.array([SIZE]), CRF.resolve())
    system = _Semantic(LABEL_FORMAT, SemanticDeepLabOptions(SIZE, model=MODEL))
    outputs = system.outputs({}, images)
    with pin_platform('portable'), pytest.raises(ValueError, match='no portable form'):
        refine_outputs(system, outputs, images, jnp.array([SIZE]), CRF.resolve())
