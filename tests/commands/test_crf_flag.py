"""The flag --crf of evaluate and of the commands that predict."""

import argparse
import contextlib

import pytest

from pdl_jax.commands import evaluate
from pdl_jax.commands.command_line import main
from pdl_jax.commands.config_file import load_config
from pdl_jax.commands.predictor_flags import (
    add_checkpoint_flags,
    add_threshold_flags,
    list_options,
)
from pdl_jax.experiment import Experiment
from pdl_jax.postprocess.crf_options import CrfOptions


@pytest.mark.parametrize(
    ('flags', 'expected'),
    [
        (['--crf=voc_v2'], CrfOptions('voc_v2')),
        (
            ['--crf=voc_v1', '--config.evaluate.crf.spatial_px=2.0'],
            CrfOptions('voc_v1', spatial_px=2.0),
        ),
        ([], CrfOptions()),
    ],
)
def test_evaluate_changes_the_experiment(flags, expected, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        'pdl_jax.evaluation.checkpoint.evaluate_checkpoint',
        lambda experiment, *_, **__: seen.append(experiment),
    )
    monkeypatch.setattr(evaluate, 'start_processes', lambda *_: contextlib.nullcontext())
    main(['evaluate', f'--workdir={tmp_path}', *flags])
    experiment = Experiment.from_config(load_config('voc_semantic'))
    changed = seen[0](experiment)
    assert changed.evaluate.crf == expected
    # A checkpoint's description brings it back.
    assert Experiment.from_dict(changed.to_json()).evaluate.crf == expected


def test_prediction_hands_it_to_the_predictor():
    parser = argparse.ArgumentParser()
    add_checkpoint_flags(parser)
    add_threshold_flags(parser)
    for words, expected in ((['--crf=voc_v2'], 'voc_v2'), (['--crf='], ''), ([], None)):
        flags = parser.parse_args(['--checkpoint=run', *words])
        assert list_options(flags)['crf'] == expected
