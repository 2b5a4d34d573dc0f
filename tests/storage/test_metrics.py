"""The numbers that a checkpoint carries."""

import json

import pytest

from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.storage.integrity import read_score
from pdl_jax.storage.metrics import find_metrics, read_metrics, summarize_report
from tests.storage import checkpoint_mutations

REPORT = {
    'step': 7,
    'pq': {
        'All': {'pq': 0.5, 'sq': 0.75, 'rq': 0.625, 'n': 3},
        'Things': {'pq': 0.25, 'sq': None, 'rq': 0.5, 'n': 1},
        'Stuff': {'pq': 1, 'sq': 1.0, 'rq': 1.0, 'n': 2},
        'per_class': {'cow': {'pq': 0.25}},
    },
    'pc': {'All': {'pc': 0.5}},
    'ap': {'ap': 0.125, 'ap50': 0.25, 'per_class': {}},
    'miou': 0.875,
    'pixel_accuracy': None,
    'num_images': 12,
}
SUMMARY = {
    'miou': 0.875, 'num_images': 12, 'pq': 0.5, 'sq': 0.75, 'rq': 0.625, 'pq_things': 0.25,
    'rq_things': 0.5, 'pq_stuff': 1, 'sq_stuff': 1.0, 'rq_stuff': 1.0, 'pc': 0.5, 'ap': 0.125,
    'ap50': 0.25,
}  # fmt: skip


def test_averages_of_a_report_are_listed():
    assert summarize_report(REPORT) == SUMMARY
    assert summarize_report({'pq': None, 'miou': 0.5}) == {'miou': 0.5}
    assert summarize_report({'pq': {'All': [1]}, 'ap': 'x', 'miou': True}) == {}


def test_metrics_come_with_the_score_or_later(tmp_path):
    checkpointer = Checkpointer(str(tmp_path), keep=3)
    save = dict(input_position={}, description={})
    checkpointer.save(checkpoint_mutations.STATE, step=1, score=0.5, metrics=SUMMARY, **save)
    checkpointer.save(checkpoint_mutations.STATE, step=2, **save)
    checkpointer.add_score(0.25, {'miou': 0.25})
    checkpointer.close()
    first, second = find_checkpoint(tmp_path, 1), find_checkpoint(tmp_path, 2)
    assert (read_score(first), read_metrics(first)) == (0.5, SUMMARY)
    assert (read_score(second), read_metrics(second)) == (0.25, {'miou': 0.25})


def test_older_checkpoints_have_none_until_they_are_evaluated(tmp_path):
    checkpoint_mutations.write_run(tmp_path)
    checkpoint = find_checkpoint(tmp_path)
    assert read_metrics(checkpoint) == find_metrics(checkpoint) == {}
    (tmp_path / 'report_2.json').write_text(json.dumps(REPORT))
    assert find_metrics(checkpoint) == SUMMARY
    path = checkpoint / 'metrics' / 'metrics'
    path.write_text('{"score": 0.5, "metrics": {"pq": "<b>", "miou": 0.5}}')
    assert read_metrics(checkpoint) == {'miou': 0.5}
    path.write_text('[')
    with pytest.raises(ValueError, match='metrics/metrics is damaged'):
        find_metrics(checkpoint)
