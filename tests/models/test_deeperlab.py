"""DeeperLab's network: parameters by part, shapes at any size, its encoders."""

import jax
import jax.numpy as jnp
import pytest

from pdl_jax.models.backbones import make_backbone
from pdl_jax.models.deeperlab import DeeperLab
from pdl_jax.models.summary import summarize
from pdl_jax.ops.platforms import eval_shape
from pdl_jax.presets import PRESETS, make_any_network
from pdl_jax.presets.preset import DEEPERLAB_SYSTEM

PRESET_NAMES = sorted(name for name, x in PRESETS.items() if x.system == DEEPERLAB_SYSTEM)


def count_norm_conv(kernel, inputs, outputs):
    return kernel**2 * inputs * outputs + 2 * outputs


@pytest.mark.slow
def test_parameters_of_the_parts():
    model = DeeperLab(133, make_any_network('deeperlab/xception71'), (641, 641))
    parts = summarize(model, (65, 65), depth=1)
    assert parts['backbone'].parameters == 40_289_736
    # From 128 channels to 32, of which 4x4 pixels join 256 channels, then 4096 channels twice.
    reduce = count_norm_conv(1, 128, 32)
    convs = count_norm_conv(3, 16 * 32 + 256, 4096) + count_norm_conv(3, 4096, 4096)
    assert parts['decoder'].parameters == reduce + convs
    # 256 channels at stride 4: 7x7 depthwise and 1x1 with their norms, then 1x1 with bias.
    head = (49 * 256 + 2 * 256) + count_norm_conv(1, 256, 256)
    for name, outputs in (('semantic', 133), ('keypoint', 5), ('middle', 16), ('long', 10)):
        assert parts[f'{name}_head'].parameters == head + 257 * outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ('preset', 'size'),
    [*((name, (70, 91)) for name in PRESET_NAMES), ('deeperlab/wide_mobilenet_v2', (65, 97))],
)
def test_shapes_at_any_size(preset, size):
    model = DeeperLab(3, make_any_network(preset), size)

    def run():
        outputs, _ = model.init_with_output(jax.random.key(0), jnp.zeros((2, *size, 3)))
        return outputs, model.upsample(outputs, size)

    outputs, large = eval_shape(run)
    channels = {'semantic': 3, 'keypoint': 5, 'short': 10, 'middle': 16, 'long': 10}
    small = tuple(-(-n // 4) for n in size)
    assert {k: x.shape for k, x in outputs.items()} == {
        k: (2, *small, n) for k, n in channels.items()
    }
    assert {k: x.shape for k, x in large.items()} == {k: (2, *size, n) for k, n in channels.items()}


@pytest.mark.parametrize('stride', [16, 32])
def test_features_that_first_have_a_stride(stride):
    backbone = make_backbone('xception71', endpoints='first', output_stride=stride)
    features = eval_shape(
        lambda: backbone.init_with_output(
            jax.random.key(0), jnp.zeros((1, 65, 65, 3)), train=False
        )[0]
    )
    channels = {'stride4': 128, 'stride8': 256, 'stride16': 728}
    for name, count in channels.items():
        side = 64 // int(name.removeprefix('stride')) + 1
        assert features[name].shape == (1, side, side, count)


def test_what_makes_no_sense_is_refused():
    for fields, words in (
        ({'fusion_features': 100}, 'multiple of 16'),
        ({'output_stride': 4}, 'at least 8'),
        ({'head_conv': 'conv9x9'}, 'head_conv'),
        ({'dropout_rate': 1.0}, 'dropout_rate'),
    ):
        with pytest.raises(ValueError, match=words):
            make_any_network('deeperlab/xception71', **fields)
