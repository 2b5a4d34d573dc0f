"""Search spaces: sizes, and that tokens, architectures and their texts lead to each other."""

import json

import numpy as np
import pytest

from pdl_jax.models.backbones.mobile_blocks import MobileBlocks
from pdl_jax.models.dense_prediction_cell import CITYSCAPES_CELL, format_cell
from pdl_jax.search.block_space import BLOCK_SPACES
from pdl_jax.search.dense_prediction_cells import CellSpace
from pdl_jax.search.space import count_sequences, draw_tokens, mutate_tokens
from tests.models.backbones import probe

SPACES = {**BLOCK_SPACES, 'cell': CellSpace()}


@pytest.mark.parametrize('name', SPACES)
def test_every_draw_is_valid_and_comes_back(name):
    space = SPACES[name]
    rng = np.random.default_rng(0)
    for _ in range(50):
        tokens = draw_tokens(space, rng)
        architecture = space.decode(tokens)
        # Tokens without effect, such as squeeze-and-excite of a plain convolution, are lost.
        again = space.encode(json.loads(json.dumps(architecture)))
        assert space.decode(again) == architecture
        changed = mutate_tokens(space, tokens, rng)
        assert sum(a != b for a, b in zip(tokens, changed, strict=True)) == 1
        space.decode(changed)


def test_sizes():
    # Four operators, two kernels, with squeeze-and-excite and skips or without; then widths and
    # layers, of which narrow stages have two only. MnasNet counts 10^13: 432 choices for 5 blocks.
    assert count_sequences(BLOCK_SPACES['mobilenet']) == 32**7 * (2 * 2) * (2 * 3) * 9**4 * (3 * 2)
    assert count_sequences(BLOCK_SPACES['small']) == 72**3
    assert count_sequences(CellSpace()) == 120 * 81**5


def test_inputs_of_branches_lie_before_them():
    space, rng = CellSpace(), np.random.default_rng(1)
    for _ in range(100):
        cell = json.loads(space.decode(draw_tokens(space, rng)))
        assert [op['op'] for op in cell if op['op'] not in ('conv', 'pyramid_pooling')] == []
        assert all(-1 <= operation['input'] < i for i, operation in enumerate(cell))


def test_the_published_cell_is_of_the_space():
    tokens = CellSpace().encode(format_cell(CITYSCAPES_CELL))
    assert json.loads(CellSpace().decode(tokens))[1] == {
        'kernel': 3,
        'rate': [18, 15],
        'op': 'conv',
        'input': 0,
    }


def test_mobilenet_v2_is_of_its_space():
    space = BLOCK_SPACES['mobilenet']
    architecture = MobileBlocks.architecture
    assert space.decode(space.encode(architecture)) == architecture


@pytest.mark.parametrize(
    ('name', 'tokens', 'message'),
    [
        ('small', (0,) * 17, '17 tokens, but the space has 18 decisions'),
        ('small', (2,) + (0,) * 17, r'token 2 of stage 0: operator must lie in \[0, 2\)'),
        ('cell', (-1,) + (0,) * 9, 'token -1 of branch 0: operation'),
        ('cell', (0, 1) + (0,) * 8, 'token 1 of branch 0: input'),
    ],
)
def test_wrong_tokens_are_named(name, tokens, message):
    with pytest.raises(ValueError, match=message):
        SPACES[name].decode(tokens)


@pytest.mark.parametrize(
    ('name', 'architecture', 'message'),
    [
        ('small', 'cn_r1_k3_s2_c32_noskip', 'stem and strides'),
        (
            'small',
            'cn_r1_k3_s2_c16_noskip,ir_r1_k7_s1_e2_c32,ir_r1_k3_s2_e2_c48,ir_r1_k3_s2_e2_c64',
            r'stage 0: kernel is one of \(3, 5\), not 7',
        ),
        ('cell', '[{"op": "conv", "kernel": 1, "input": -1}]', 'has 1 branches'),
    ],
)
def test_other_architectures_are_refused(name, architecture, message):
    with pytest.raises(ValueError, match=message):
        SPACES[name].encode(architecture)


def test_students_run_at_their_stride():
    space, rng = BLOCK_SPACES['small'], np.random.default_rng(2)
    architecture = space.decode(draw_tokens(space, rng))
    traced = probe.trace(MobileBlocks(8, architecture=architecture), (32, 40))
    assert traced.shapes['last'][:2] == (4, 5)
