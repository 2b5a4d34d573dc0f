"""Images with as many objects as a system predicts are told of."""

import types

import pytest
from absl import logging

from pdl_jax.prediction import object_limit
from pdl_jax.typing import LabelFormat


def make_system(max_segments, *, has_instances=True):
    label_format = LabelFormat(3, (1, 2), 255, 1000)
    return types.SimpleNamespace(
        max_segments=max_segments,
        max_segments_field='model.num_queries',
        has_instances=has_instances,
        label_format=label_format,
    )


@pytest.mark.parametrize(
    'system, num_objects, is_told',
    [
        (make_system(203), 200, True),
        (make_system(203), 191, True),
        (make_system(203), 150, False),
        (make_system(203, has_instances=False), 200, False),
        # A system without centres has one segment per class.
        (make_system(3), 3, False),
    ],
)
def test_full_images_are_told_of(monkeypatch, system, num_objects, is_told):
    told = []
    monkeypatch.setattr(
        logging, 'log_first_n', lambda level, text, n, *values: told.append(text % values)
    )
    object_limit.warn_of_full_image(system, num_objects)
    assert bool(told) == is_told
    if is_told:
        assert f'an image has {num_objects} objects, about as many as' in told[0]
        assert '(200, config.model.num_queries)' in told[0]
