"""MobileNetV2: counts of the original, and the layers that decoders read in either arrangement."""

import functools

import numpy as np
import pytest

from pdl_jax.models.backbones.mobilenet_v2 import MobileNetV2
from pdl_jax.models.blocks import LayerOptions
from tests.models.backbones import probe


# Channels that bowenc0221's decoders project, and those of TF DeepLab's layers 4, 7 and 14.
@pytest.mark.parametrize(
    ('endpoints', 'channels'), [('outputs', (16, 24, 32, 96)), ('inner', (32, 144, 192, 576))]
)
def test_counts_and_endpoints(endpoints, channels):
    traced = probe.trace(MobileNetV2(output_stride=16, endpoints=endpoints), (513, 513))
    assert traced.parameters == 1_811_712
    assert traced.shapes == {
        'stride2': (257, 257, channels[0]),
        'stride4': (129, 129, channels[1]),
        'stride8': (65, 65, channels[2]),
        'stride16': (33, 33, channels[3]),
        'last': (33, 33, 320),
    }


def test_multiply_adds():
    # With the classifier the published 300.77 million.
    classifier = 7 * 7 * 320 * 1280 + 1280 * 1000
    assert (
        probe.trace(MobileNetV2(output_stride=32), (224, 224)).multiply_adds + classifier
        == 300_774_272
    )


def test_features_are_those_of_torchvision():
    features = probe.run(
        MobileNetV2(output_stride=32, endpoints='inner', options=LayerOptions(norm_epsilon=1e-5)),
        probe.make_image(33, 48),
    )
    # torchvision's mobilenet_v2 with the same variables and image.
    for key, step, expected in [
        ('stride4', 18, [0, 0, 0.045528, 0, 0, 1.002482, 2.920727, 0]),
        ('stride8', 24, [0, 0.111126, 0, 0, 0.081514, 0, 1.754078, 0]),
        ('stride16', 72, [0.504378, 0, 0.769342, 6, 0.10301, 1.457115, 0, 1.549425]),
        (
            'last',
            40,
            [2.962565, 1.02688, -0.985989, -0.41973, 0.687082, -1.658472, -0.240152, 1.977989],
        ),
    ]:
        np.testing.assert_allclose(features[key][0, 1, 1, ::step], expected, atol=3e-4, err_msg=key)


def test_a_replaced_stride_is_not_joined():
    """At this width strided blocks keep their channels; dilated, their shapes allow a shortcut."""
    probe.check_atrous_consistency(functools.partial(MobileNetV2, width_multiplier=0.25), (4, 8))


def test_wrong_endpoints_are_named():
    with pytest.raises(
        ValueError, match="MobileNetV2 endpoints must be one of .*'inner'.*, not 'output'"
    ):
        MobileNetV2(endpoints='output')
