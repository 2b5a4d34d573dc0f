"""Backbones from a list of blocks: those of published networks, and what is no list of blocks."""

import functools

import jax
import numpy as np
import pytest

from pdl_jax.models.backbones.mobile_blocks import (
    MobileBlocks,
    format_architecture,
    parse_architecture,
)
from pdl_jax.models.backbones.mobilenet_v2 import MobileNetV2
from tests.models.backbones import probe

MNASNET_B1 = (
    'cn_r1_k3_s2_c32_noskip,ds_r1_k3_s1_c16_noskip,ir_r3_k3_s2_e3_c24,ir_r3_k5_s2_e3_c40,'
    'ir_r3_k5_s2_e6_c80,ir_r2_k3_s1_e6_c96,ir_r4_k5_s2_e6_c192,ir_r1_k3_s1_e6_c320_noskip'
)


def test_the_default_is_mobilenet_v2():
    traced = [
        probe.trace(kind(output_stride=16), (97, 129)) for kind in (MobileBlocks, MobileNetV2)
    ]
    assert traced[0] == traced[1]


def test_mnasnet_b1():
    traced = probe.trace(MobileBlocks(32, architecture=MNASNET_B1), (224, 224))
    # torchvision's mnasnet1_0 has 4,383,312 parameters with its last convolution and classifier.
    assert traced.parameters == 4_383_312 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)


def test_strides_may_be_replaced_by_dilation():
    architecture = 'cn_r1_k3_s2_c8,ir_r2_k5_s2_e2_c8_se0.25,cn_r2_k3_s2_c16,ds_r2_k3_s2_c16'
    make = functools.partial(MobileBlocks, architecture=architecture)
    probe.check_atrous_consistency(make, (4, 8))


def test_texts_come_back():
    for text in (MNASNET_B1, MobileBlocks.architecture):
        assert format_architecture(parse_architecture(text)) == text
    assert parse_architecture(' ir_r3_k5_s2_e6_c40_se0.25_noskip')[0] == (
        'ir', 3, 5, 2, 6, 40, True, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "group '' must read like"),
        ('ir_r3_k5_s2_c40', "'ir' needs an expansion"),
        ('ds_r3_k5_s2_e3_c40', 'the others have none'),
        ('cn_r1_k3_s2_c16_se0.25', "'cn' has no squeeze-and-excite"),
        ('cn_r1_k4_s2_c16', 'needs an odd kernel'),
        ('cn_r0_k3_s2_c16', 'above 0'),
        ('cn_r1_k3_s3_c16', 'must read like'),
        ('cn_r1_k3_s2_c99999', 'must read like'),
        (','.join(['cn_r1_k3_s1_c16'] * 33), 'has 33 groups'),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_architecture(text)


def test_the_stride_must_be_reached():
    with pytest.raises(ValueError, match=r'ends at stride 4: set model.output_stride \(=16\)'):
        MobileBlocks(architecture='cn_r2_k3_s2_c8,cn_r1_k3_s2_c8')


def test_skips_add_the_input():
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 8))
    stem = 'cn_r1_k3_s2_c8_noskip,cn_r1_k3_s2_c8_noskip'
    skip = MobileBlocks(4, architecture=f'{stem},cn_r1_k3_s1_c8')
    variables = skip.init(jax.random.key(1), x, train=False)
    last, without, before = (
        MobileBlocks(4, architecture=text).apply(variables, x, train=False)['last']
        for text in (skip.architecture, f'{skip.architecture}_noskip', stem)
    )
    np.testing.assert_allclose(last - without, before, atol=1e-5)
