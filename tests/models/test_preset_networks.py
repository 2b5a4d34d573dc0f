"""Presets against their origins: parameters exactly, multiply-adds to one per cent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from pdl_jax.models.backbones import BACKBONES
from pdl_jax.models.classifier import Classifier
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.kmax_deeplab import KMaXDeepLab
from pdl_jax.models.options import BackboneOptions, ModelOptions
from pdl_jax.models.summary import add_up, summarize
from pdl_jax.preprocess.normalize import NORMALIZATIONS
from pdl_jax.presets import PRESETS, make_any_network, make_options
from pdl_jax.presets.preset import KMAX_SYSTEM, SYSTEM_BY_INSTANCES

# Trainable parameters by preset and number of classes: asserted by the originals' own tests,
# counted on the original programs, or recomputed from the layer tables that the checks of
# multiply-adds below confirm.
PARAMETERS = {
    ('deeplab2/resnet50_os32', 19): 54_973_702,
    ('deeplab2/resnet50_os32', 134): 55_003_257,
    ('deeplab2/resnet50_beta_os32', 19): 55_097_478,
    ('deeplab2/resnet50_beta_os16', 134): 55_127_033,
    ('deeplab2/mobilenet_v3_small_os16', 19): 10_484_198,
    ('deeplab2/mobilenet_v3_large_os16', 19): 18_236_534,
    ('deeplab2/wide_resnet41_os16', 19): 140_479_750,
    ('deeplab2/swidernet_sac_1_1_1_os16', 19): 144_418_057,
    ('deeplab2/swidernet_sac_1_1_3_os16', 19): 376_526_095,
    ('deeplab2/swidernet_sac_1_1_4.5_os16', 19): 535_985_427,
    ('deeplab2/axial_deeplab_s_os16', 19): 27_796_454,
    ('deeplab2/axial_deeplab_l_os16', 19): 75_307_590,
    ('deeplab2/max_deeplab_s_backbone_os16', 19): 42_788_486,
    ('deeplab2/axial_swidernet_1_1_1_os16', 19): 137_844_454,
    ('deeplab2/axial_swidernet_1_1_3_os16', 19): 395_380_582,
    ('deeplab2/axial_swidernet_1_1_4.5_os16', 19): 571_791_974,
    ('deeplab2/resnet50_os32_semantic', 19): 39_335_219,
    ('deeplab2/deeplab_v3_resnet50_os32', 19): 39_638_355,
    ('deeplab2/deeplab_v3_mobilenet_v3_large_os32', 19): 11_024_963,
    ('deeplab2/deeplab_v3plus_resnet50_os32', 19): 39_210_947,
    ('bowenc0221/resnet50_os32', 19): 55_308_870,
    ('bowenc0221/resnet50_os16', 19): 54_997_926,
    ('bowenc0221/resnet101_os32', 19): 74_300_998,
    ('bowenc0221/resnext101_32x8d_os32', 19): 118_543_174,
    ('bowenc0221/mobilenet_v2_os32', 19): 7_719_814,
    ('bowenc0221/xception65_os32', 19): 69_632_054,
    ('bowenc0221/hrnet_w48', 19): 72_209_222,
    ('detectron2/resnet52_os16_dsconv', 19): 30_271_350,
    ('detectron2/resnet52_os16_dsconv', 133): 30_300_648,
    ('detectron2/resnet52_os16', 19): 59_770_166,
    ('model_garden/resnet50_os16', 201): 40_162_684,
    ('model_garden/resnet101_os16', 201): 68_089_468,
    # Without the layers after the last block, 647,296 and 1,385,600 in the original.
    ('model_garden/mobilenet_v3_small_os16', 201): 2_161_884,
    ('model_garden/mobilenet_v3_large_os16', 201): 4_276_972,
    ('detectron2/xception65_os16', 19): 74_033_318,
    ('detectron2/xception65_os16_dsconv', 19): 44_534_502,
    ('detectron2/xception65_os16_dsconv', 133): 44_563_800,
    ('detectron2/hrnet_w48', 19): 78_657_974,
    ('detectron2/hrnet_w48_dsconv', 19): 67_727_222,
    ('detectron2/hrnet_w48_dsconv', 133): 67_756_520,
    ('detectron2/deeplab_v3_resnet103_os16', 19): 58_163_667,
    ('detectron2/deeplab_v3plus_resnet103_os16', 19): 59_467_315,
    ('detectron2/deeplab_v3plus_xception65_os16', 19): 54_710_691,
    ('detectron2/deeplab_v3plus_hrnet_w48', 19): 72_876_531,
    ('paper/xception71', 19): 46_745_486,
    ('paper/resnet50', 19): 30_066_822,
    ('paper/mobilenet_v3', 19): 3_650_166,
    ('tensorflow/deeplab_v3plus_xception65_os16', 21): 41_055_413,
    ('tensorflow/lr_aspp_mobilenet_v3_large_os16', 19): 1_507_198,
    ('tensorflow/lr_aspp_mobilenet_v3_small_os16', 19): 468_830,
    # torchvision counts its auxiliary heads too: 2,365,205 and 3,851.
    ('torchvision/deeplab_v3_resnet101_os8', 21): 58_630_997,
    ('torchvision/deeplab_v3_mobilenet_v3_large_os16', 21): 11_025_477,
    ('torchvision/lr_aspp_mobilenet_v3_large_os16', 21): 3_221_538,
    ('caffe/deeplab_v1_vgg16_7x7_os8', 21): 134_346_581,
    ('caffe/deeplab_v1_vgg16_4x4_os8', 21): 65_140_565,
    ('caffe/deeplab_v1_vgg16_largefov_os8', 21): 20_505_429,
    ('caffe/deeplab_v2_vgg16_aspp_s_os8', 21): 37_877_652,
    ('caffe/deeplab_v2_vgg16_aspp_l_os8', 21): 37_877_652,
    ('deeplab_pytorch/deeplab_v1_resnet101_os8', 21): 42_543_189,
    ('deeplab_pytorch/deeplab_v2_resnet101_os8', 21): 44_048_532,
    ('imagenet/vgg16', 1000): 138_357_544,
    ('imagenet/resnet18', 1000): 11_689_512,
    ('imagenet/resnet34', 1000): 21_797_672,
    ('imagenet/resnet50', 1000): 25_557_032,
    ('imagenet/resnet101', 1000): 44_549_160,
    ('imagenet/resnet152', 1000): 60_192_808,
    ('imagenet/resnext50_32x4d', 1000): 25_028_904,
    ('imagenet/resnext101_32x8d', 1000): 88_791_336,
    ('imagenet/resnext101_64x4d', 1000): 83_455_272,
    ('imagenet/wide_resnet50_2', 1000): 68_883_240,
    ('imagenet/wide_resnet101_2', 1000): 126_886_696,
    ('imagenet/resnet50d', 1000): 25_576_264,
    ('imagenet/resnet101d', 1000): 44_568_392,
    ('imagenet/resnet50_beta', 1000): 25_680_808,
    ('imagenet/resnet101_beta', 1000): 44_672_936,
    ('imagenet/axial_resnet_s', 1000): 12_491_912,
    ('imagenet/axial_resnet_l', 1000): 45_763_048,
    ('imagenet/wide_resnet41', 1000): 111_063_080,
    ('imagenet/swidernet_1_1_3', 1000): 335_294_504,
    ('imagenet/swidernet_1_1_4.5', 1000): 489_502_760,
    ('imagenet/xception41', 1000): 26_969_560,
    ('imagenet/xception65', 1001): 39_918_361,
    ('imagenet/xception71', 1000): 42_338_736,
    ('imagenet/mobilenet_v2', 1000): 3_504_872,
    ('imagenet/mobilenet_v2_5x5', 1000): 3_619_048,
    ('imagenet/mobilenet_v3_large', 1000): 5_483_032,
    ('imagenet/mobilenet_v3_small', 1000): 2_542_856,
    ('imagenet/mobilenet_v3_large_minimalistic', 1000): 3_924_288,
    ('imagenet/mobilenet_v3_small_minimalistic', 1000): 2_044_736,
    ('imagenet/hrnet_w18', 1000): 21_299_004,
    ('imagenet/hrnet_w32', 1000): 41_232_680,
    ('imagenet/hrnet_w48', 1000): 77_469_864,
    ('imagenet/convnext_tiny', 1000): 28_589_128,
    ('imagenet/convnext_small', 1000): 50_223_688,
    ('imagenet/convnext_base', 1000): 88_591_464,
    ('imagenet/convnext_large', 1000): 197_767_336,
}

CITY, COCO, MAPILLARY = (1025, 2049), (641, 641), (2177, 2177)

# Billions of multiply-adds by preset, number of classes, input size and overrides.
MULTIPLY_ADDS = [
    ('deeplab2/resnet50_os32', 19, CITY, {}, 273.7),
    ('deeplab2/resnet50_beta_os32', 19, CITY, {}, 332.1),
    ('deeplab2/resnet50_beta_os16', 19, CITY, {}, 609.4),
    ('deeplab2/mobilenet_v3_small_os32', 19, CITY, {}, 51.9),
    ('deeplab2/mobilenet_v3_small_os16', 19, CITY, {}, 109.7),
    ('deeplab2/mobilenet_v3_large_os32', 19, CITY, {}, 70.9),
    ('deeplab2/mobilenet_v3_large_os16', 19, CITY, {}, 166.8),
    ('deeplab2/wide_resnet41_os16', 19, CITY, {}, 2703),
    ('deeplab2/resnet50_os32', 134, COCO, {}, 55.7),
    ('deeplab2/resnet50_beta_os32', 134, COCO, {}, 67.2),
    ('deeplab2/resnet50_os16', 134, COCO, {}, 110.8),
    ('deeplab2/resnet50_beta_os16', 134, COCO, {}, 122.3),
    ('paper/xception71', 19, CITY, {}, 546.02),
    ('paper/resnet50', 19, CITY, {}, 379.07),
    ('paper/mobilenet_v3', 19, CITY, {}, 53.73),
    ('paper/mobilenet_v3', 19, CITY, {'backbone': 'mobilenet_v3_large'}, 68.3),
    ('paper/xception71', 134, COCO, {}, 109.59),
    ('paper/resnet50', 134, COCO, {}, 76.19),
    ('paper/mobilenet_v3', 134, COCO, {}, 11.41),
    ('paper/xception71', 65, MAPILLARY, {}, 1228.1),
    ('paper/resnet50', 65, MAPILLARY, {}, 854.1),
    ('paper/mobilenet_v3', 65, MAPILLARY, {}, 124.2),
    ('tensorflow/deeplab_v3plus_xception65_os16', 21, (513, 513), {}, 54.04),
    (
        'tensorflow/deeplab_v3plus_xception65_os16',
        21,
        (513, 513),
        {'output_stride': 8, 'aspp_rates': (12, 24, 36)},
        176.85,
    ),
    ('tensorflow/deeplab_v3plus_xception65_os16', 19, CITY, {}, 418.38),
    ('tensorflow/deeplab_v3plus_xception71_os16', 19, CITY, {}, 513.0),
    ('tensorflow/deeplab_v3plus_xception71_dpc_os16', 19, CITY, {}, 501.81),
    ('tensorflow/deeplab_v3_resnet101_beta_os16', 21, (513, 513), {}, 76.05),
    ('tensorflow/deeplab_v3_resnet101_beta_os16', 21, (513, 513), {'output_stride': 8}, 252.3),
    ('tensorflow/deeplab_v3_mobilenet_v2_os16', 21, (513, 513), {}, 2.741),
    ('tensorflow/deeplab_v3_mobilenet_v2_os16', 19, CITY, {}, 21.23),
    ('tensorflow/lr_aspp_mobilenet_v3_large_os16', 19, (1024, 2048), {}, 9.368),
    ('tensorflow/lr_aspp_mobilenet_v3_large_os32', 19, (1024, 2048), {}, 7.446),
    ('tensorflow/lr_aspp_mobilenet_v3_small_os16', 19, (1024, 2048), {}, 2.729),
    ('tensorflow/lr_aspp_mobilenet_v3_small_os32', 19, (1024, 2048), {}, 1.925),
    ('imagenet/vgg16', 1000, (224, 224), {}, 15.470),
    ('imagenet/resnet18', 1000, (224, 224), {}, 1.8141),
    ('imagenet/resnet34', 1000, (224, 224), {}, 3.6638),
    ('imagenet/resnet50', 1000, (224, 224), {}, 4.0892),
    ('imagenet/resnet101', 1000, (224, 224), {}, 7.8014),
    ('imagenet/resnet152', 1000, (224, 224), {}, 11.5136),
    ('imagenet/resnext50_32x4d', 1000, (224, 224), {}, 4.230),
    ('imagenet/resnet50_beta', 1000, (224, 224), {}, 5.4443),
    ('imagenet/wide_resnet41', 1000, (224, 224), {}, 53.534),
    ('imagenet/swidernet_1_1_3', 1000, (224, 224), {}, 144.63),
    ('imagenet/xception41', 1000, (224, 224), {}, 4.976),
    ('imagenet/xception65', 1000, (299, 299), {}, 13.853),
    ('imagenet/xception71', 1000, (224, 224), {}, 9.742),
    ('imagenet/mobilenet_v2', 1000, (224, 224), {}, 0.30077),
    ('imagenet/mobilenet_v3_large', 1000, (224, 224), {}, 0.21659),
    ('imagenet/mobilenet_v3_small', 1000, (224, 224), {}, 0.05651),
    ('imagenet/mobilenet_v3_large_minimalistic', 1000, (224, 224), {}, 0.2091),
    ('imagenet/mobilenet_v3_small_minimalistic', 1000, (224, 224), {}, 0.0523),
    ('imagenet/hrnet_w48', 1000, (224, 224), {}, 17.28),
]


def _make_model(preset, num_classes, size, **overrides):
    options = make_options(preset, **overrides)
    if options.decoder == 'classifier':
        return Classifier(num_classes, options)
    return DeepLab(num_classes, options, pool_crop=size)


@functools.cache
def _summarize(preset, num_classes, size, **overrides):
    return summarize(_make_model(preset, num_classes, size, **overrides), size)


@pytest.mark.slow
@pytest.mark.parametrize(('preset', 'num_classes'), PARAMETERS)
def test_parameters(preset, num_classes):
    # At a size that the multiply-adds need too, so that one trace serves both.
    sizes = [
        size
        for *key, size, fields, _ in MULTIPLY_ADDS
        if tuple(key) == (preset, num_classes) and not fields
    ]
    parts = _summarize(preset, num_classes, sizes[0] if sizes else (65, 65))
    assert add_up(parts).parameters == PARAMETERS[preset, num_classes]


@pytest.mark.slow
@pytest.mark.parametrize(('preset', 'num_classes', 'size', 'overrides', 'billions'), MULTIPLY_ADDS)
def test_multiply_adds(preset, num_classes, size, overrides, billions):
    parts = _summarize(preset, num_classes, size, **overrides)
    assert add_up(parts).multiply_adds == pytest.approx(billions * 1e9, rel=0.01)


def test_parts_of_deeplab2():
    """Sub-totals as DeepLab2's tables give them."""
    parts = _summarize('deeplab2/resnet50_os32', 19, (65, 65))
    assert {name: part.parameters for name, part in parts.items() if part.parameters} == {
        'backbone': 23_508_032,
        'semantic_decoder': 15_749_344,
        'semantic_head': 77_843,
        'instance_decoder': 15_623_152,
        'center_head': 7_649,
        'offset_head': 7_682,
    }


@pytest.mark.parametrize(
    ('is_separable', 'count'), [(False, 15_535_104), (True, 3_019_776), ('cell', 1_150_976)]
)
def test_context_modules(is_separable, count):
    """Of 2048 channels to 256: full and separable ASPP, and the dense prediction cell."""
    fields = (
        {'context': 'dense_prediction_cell'}
        if is_separable == 'cell'
        else {'is_aspp_separable': is_separable}
    )
    model = _make_model('deeplab2/resnet50_os32', 19, (65, 65), **fields)
    parts = summarize(model, (65, 65), depth=2)
    name = 'dense_prediction_cell' if is_separable == 'cell' else 'aspp'
    assert parts[f'semantic_decoder/{name}'].parameters == count


@pytest.mark.slow
@pytest.mark.parametrize(
    'preset',
    sorted(name for name, x in PRESETS.items() if x.system in SYSTEM_BY_INSTANCES.values()),
)
def test_preset_is_complete(preset):
    """Every preset names known fields and values, and builds at a size that no stride divides."""
    options = make_options(preset)
    assert options.normalization in NORMALIZATIONS
    size = (70, 91)
    model = _make_model(preset, 3, size)

    def run():
        outputs, _ = model.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 3)))
        return outputs, model.upsample(outputs, size)

    outputs, large = jax.eval_shape(run)
    finest = min((*options.skip_strides, options.backbone.output_stride))
    stride = 8 if options.decoder == 'lr_aspp' else finest
    instance = {'center', 'offset'} if options.instance is not None else set()
    assert set(outputs) == {'semantic', *instance}
    assert {value.shape[1:3] for value in outputs.values()} == {
        tuple(-(-n // stride) for n in size)
    }
    assert {value.shape[:3] for value in large.values()} == {(2, *size)}


@pytest.mark.slow
@pytest.mark.parametrize(
    'preset', sorted(name for name, x in PRESETS.items() if x.system == KMAX_SYSTEM)
)
def test_preset_of_masks_is_complete(preset):
    model = KMaXDeepLab(3, make_any_network(preset))
    assert model.options.normalization in NORMALIZATIONS
    outputs, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 65, 97, 3)))
    )
    num_queries = model.options.num_queries
    assert outputs['class_logits'].shape == (2, num_queries, 4)
    assert outputs['mask_logits'].shape[3] == num_queries
    assert len(outputs['auxiliary']) == model.options.num_layers


def test_overrides_replace_fields_of_the_preset():
    options = make_options('deeplab2/resnet50_os16', dropout_rate=0.0, backbone=None)
    assert options == dataclasses.replace(
        ModelOptions(),
        backbone=BackboneOptions(output_stride=16),
        aspp_rates=(6, 12, 18),
        dropout_rate=0.0,
    )


def test_another_backbone_leaves_behind_what_belonged_to_the_first():
    options = make_options('detectron2/resnet52_os16', backbone='mobilenet_v2')
    backbone = options.backbone
    assert (backbone.multi_grid, backbone.stride_convention) == (None, None)
    assert options.resize == 'half_pixel'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'preset': 'deeplab2/resnet49'},
            "model.preset 'deeplab2/resnet49' is unknown; did you mean .*choose one of bowenc0221/",
        ),
        ({'resize': 'nearest'}, r"model.resize \(='nearest'\) must be one of"),
        (
            {'skip_strides': (4,)},
            r'semantic_low_level_features \(=\(64, 32\)\) needs one width for each of',
        ),
        ({'decoder': 'lr_aspp'}, 'has no instance branch: set model.has_instances=False'),
        ({'width_multiplier': 0.0}, r'width_multiplier \(=0.0\) must be positive'),
        ({'dropout_rate': 1.0}, r'dropout_rate \(=1.0\) must lie in'),
    ],
)
def test_wrong_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_options(**{'preset': 'deeplab2/resnet50_os32', **fields})


def test_every_backbone_has_a_classifier():
    assert {name for name in PRESETS if name.startswith('imagenet/')} == {
        f'imagenet/{b}' for b in BACKBONES
    }
