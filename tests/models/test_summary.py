"""The summary: its counting against numbers worked out by hand, and its command line."""

import json

import flax.linen as nn
import jax.numpy as jnp
import pytest

from pdl_jax.commands.command_line import main
from pdl_jax.models.blocks import Conv, ConvNorm, LayerOptions, SeparableConv
from pdl_jax.models.summary import Counts, add_up, summarize


class _Small(nn.Module):
    """A strided convolution, a separable one and a 1x1 one with bias that is applied twice."""

    @nn.compact
    def __call__(self, x, train=False):
        x = ConvNorm(8, 3, 2, options=LayerOptions(jnp.bfloat16), name='first')(x, train=train)
        x = SeparableConv(16, 5, name='second')(x, train=train)
        last = Conv(16, has_bias=True, name='last')
        return last(last(x))


def test_counts_equal_those_by_hand():
    parts = summarize(_Small(), (9, 15))
    pixels = 5 * 8
    assert parts == {
        'first': Counts(9 * 3 * 8 + 16, pixels * 9 * 3 * 8, pixels * 8 * 2),
        'second': Counts(
            25 * 8 + 16 + 8 * 16 + 32, pixels * (25 * 8 + 8 * 16), pixels * (8 + 16) * 4
        ),
        'last': Counts(16 * 16 + 16, 2 * pixels * 16 * 16, 2 * pixels * 16 * 4),
    }
    assert add_up(parts).parameters == sum(part.parameters for part in parts.values())


def test_depth_tells_inner_parts_apart():
    parts = summarize(_Small(), (9, 15), depth=2)
    assert parts['second/depthwise'].multiply_adds == 5 * 8 * 25 * 8
    assert add_up(parts) == add_up(summarize(_Small(), (9, 15)))


def test_command_prints_json_of_a_preset(capsys):
    main(
        [
            'summary',
            '--model=tensorflow/lr_aspp_mobilenet_v3_small_os32',
            '--num_classes=19',
            '--size=65x129',
            '--json',
        ]
    )
    values = json.loads(capsys.readouterr().out)
    assert values['parameters'] == 468_830
    assert values['size'] == [65, 129]
    for key in ('parameters', 'multiply_adds', 'activation_bytes'):
        assert values[key] == sum(part[key] for part in values['parts'].values()) > 0


def test_command_takes_a_configuration_with_overrides(capsys):
    main(
        [
            'summary',
            '--config=configs/coco.py',
            '--config.data.path=data/coco',
            '--config.model.backbone=mobilenet_v2',
            '--depth=2',
        ]
    )
    output = capsys.readouterr().out
    assert '134 classes, 641x641 pixels' in output
    assert 'semantic_decoder/aspp' in output


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ((), 'give either --config=FILE or --model=PRESET'),
        (
            ('--model=deeplab2/resnet49_os32', '--num_classes=19'),
            "is unknown; did you mean 'deeplab2/resnet50_os32'? choose one of",
        ),
        (('--model=deeplab2/resnet50_os32',), '--model needs --num_classes=N'),
        (
            ('--model=deeplab2/resnet50_os32', '--num_classes=19', '--size=0x5'),
            '--size=0x5 must be HEIGHTxWIDTH',
        ),
        (('--config=configs/scenes.py', '--config.data.num_classes=0'), 'add --num_classes=N'),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(['summary', *flags])
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith('error: ')
    assert len(printed.splitlines()) == 1
