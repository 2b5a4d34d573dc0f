"""Evaluation tells of images with more objects than centres, and takes splits of other divisors."""

import dataclasses
import logging
import types
from typing import Any

import pytest

from pdl_jax.data import catalog
from pdl_jax.evaluation import evaluator

SPEC = catalog.from_categories(
    'own', [{'id': 1, 'name': 'ground', 'isthing': 0}, {'id': 2, 'name': 'cell', 'isthing': 1}]
)


def make_source(**fields) -> Any:
    return types.SimpleNamespace(directory='data/val', spec=SPEC, max_instances=300, **fields)


@pytest.mark.parametrize('max_centers, is_told', [(200, True), (300, False), (0, False)])
def test_more_objects_than_centres_are_told(caplog, max_centers, is_told):
    system: Any = types.SimpleNamespace(
        has_instances=True,
        max_segments=max_centers + 2,
        max_segments_field='postprocess.max_centers',
        label_format=SPEC.label_format,
    )
    with caplog.at_level(logging.WARNING, logger='absl'):
        evaluator._warn_of_many_instances(system, make_source())
    told = 'an image of data/val has 300 objects, and at most 200 are predicted: raise config.post'
    assert (told in caplog.text) == is_told


def test_the_label_divisor_is_no_difference_of_classes():
    trained = dataclasses.replace(SPEC, label_divisor=4096).to_dict()
    evaluator.check_same_classes(trained, make_source(), 'runs/a')
    other = dict(trained, categories=trained['categories'][::-1])
    with pytest.raises(ValueError, match='runs/a has 2 classes'):
        evaluator.check_same_classes(other, make_source(), 'runs/a')
