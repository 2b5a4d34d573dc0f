"""Which fields may differ between a checkpoint and what is asked, and what is said of them."""

import pytest

from pdl_jax.commands.config_file import override_experiment
from pdl_jax.storage.config_changes import Change, check_changes, find_changes
from tests import tiny


def compare(*overrides):
    saved = tiny.make_experiment('data')
    asked = override_experiment(saved, [f'--config.{override}' for override in overrides])
    return find_changes(saved.to_dict(), asked.to_dict())


@pytest.mark.parametrize(
    ('override', 'line'),
    [
        ('optimizer.kind=sgd', 'optimizer.kind: adam in the checkpoint, sgd now'),
        ('data.path=other', 'data.path: data in the checkpoint, other now'),
        ('data.num_classes=0', None),
        ('model.dtype=float32', 'model.dtype: auto in the checkpoint, float32 now'),
        ('model.init_checkpoint=x', "model.init_checkpoint: '' in the checkpoint, x now"),
        ('postprocess.max_centers=8', 'postprocess.max_centers: 16 in the checkpoint, 8 now'),
        ('evaluate.scales=(0.5,1.0)', 'evaluate.scales: (1.0,) in the checkpoint, (0.5, 1.0) now'),
        ('targets.max_instances=9', 'targets.max_instances: 16 in the checkpoint, 9 now'),
        ('loss.center_weight=1.0', None),
        ('augment.resize_max_px=99', None),
        ('train.batch_size=16', None),
        ('seed=3', 'seed: 0 in the checkpoint, 3 now'),
        ('mesh.space=2', None),
    ],
)  # fmt: skip
def test_fields_that_may_differ(override, line, caplog):
    changes = compare(override)
    assert [change.reason for change in changes] == ['']
    assert line is None or str(changes[0]) == f'config.{line}'
    check_changes(changes, is_allowed=False, advice='')
    assert str(changes[0]) in caplog.text


@pytest.mark.parametrize(
    ('override', 'reason'),
    [
        ('model.normalization=per_image', 'pixels normalised otherwise'),
        ('model.backbone=resnet18', 'another one'),
        ('model.semantic_features=16', 'another one'),
        ('targets.sigma_px=3.0', 'other targets'),
        ('targets.is_offset_to_pixel=False', 'other targets'),
    ],
)
def test_fields_that_change_the_meaning(override, reason, caplog):
    changes = [change for change in compare(override) if change.field == override.split('=')[0]]
    assert len(changes) == 1 and reason in changes[0].reason
    with pytest.raises(ValueError, match=f'^config.{override.split("=")[0]}: .*{reason}.* Do that'):
        check_changes(changes, is_allowed=False, advice='Do that')
    caplog.clear()
    check_changes(changes, is_allowed=True, advice='')
    assert str(changes[0]) in caplog.text


def test_some_fields_depend_on_others():
    def find(saved, asked):
        return [change.reason for change in find_changes(saved, asked)]

    for pooling, is_refused in (('train_crop', True), ('global', False)):
        saved = {'model': {'aspp_pooling': pooling}, 'augment': {'crop_height_px': 65}}
        asked = {**saved, 'augment': {'crop_height_px': 33}}
        assert bool(find(saved, asked)[0]) is is_refused
    for number, is_refused in ((0, False), (5, True)):
        saved, asked = {'data': {'num_classes': number}}, {'data': {'num_classes': 7}}
        assert bool(find(saved, asked)[0]) is is_refused


def test_the_error_counts_the_others():
    changes = [Change('model.a', 1, 2, 'x'), Change('seed', 1, 2), Change('model.b', 1, 2, 'y')]
    with pytest.raises(
        ValueError, match=r'^config.model.a: 1 .* 2 now: x, and 1 more such fields\.'
    ):
        check_changes(changes, is_allowed=False, advice='')


def test_code_that_the_command_line_names_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own_terms.py').write_text('def add(*_, **__):\n    return {}\n')
    saved = tiny.make_experiment('data')
    words = ["--config.loss.extra=('own_terms:add',)"]
    asked = override_experiment(saved, words)
    changes = find_changes(saved.to_dict(), asked.to_dict())
    assert [(c.field, c.asked) for c in changes] == [('loss.extra', ('own_terms:add',))]
    with pytest.raises(ValueError, match='there is no module missing_terms'):
        override_experiment(saved, ["--config.loss.extra=('missing_terms:add',)"])


def test_no_override_changes_nothing():
    saved = tiny.make_experiment('data')
    assert override_experiment(saved, []) == saved
    # Every field of a configuration survives the way there and back.
    assert override_experiment(saved, ['--config.seed=0']) == saved
