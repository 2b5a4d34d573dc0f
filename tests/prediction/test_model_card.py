"""The model card tells what the checkpoint holds, and names in it are harmless."""

import dataclasses

import pytest

from pdl_jax.data.records import open_split
from pdl_jax.prediction.model_card import find_card
from pdl_jax.storage.checkpointer import Checkpointer
from tests import tiny
from tests.process_group import BARE_NETWORK
from tests.storage import checkpoint_mutations

HOSTILE = '</td>\n|<script>`[x](javascript:1)'


@pytest.fixture(scope='module')
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('card')
    spec = open_split(data, 'val').spec
    first, *others = spec.categories
    spec = dataclasses.replace(spec, categories=(dataclasses.replace(first, name=HOSTILE), *others))
    experiment = tiny.make_experiment(data, **BARE_NETWORK)
    checkpointer = Checkpointer(str(folder), keep=1)
    checkpointer.save(
        checkpoint_mutations.STATE,
        step=7,
        input_position={},
        description={'config': experiment.to_json(), 'dataset': spec.to_dict()},
        score=0.5,
        metrics={'pq': 0.5, 'pq_things': 0.125, 'num_images': 12},
    )
    checkpointer.close()
    return folder, spec


def test_it_has_metrics_classes_and_commands(workdir):
    folder, spec = workdir
    card = find_card(str(folder), None, address='hf://user/toy@main')
    head, _, text = card.removeprefix('---\n').partition('---\n')
    assert 'library_name: pdl_jax' in head and 'pipeline_tag: image-segmentation' in head
    assert 'pdl_jax pull hf://user/toy@main toy\n' in text and 'step 7' in text
    assert '| pq | 50.0 |\n| pq things | 12.5 |\n' in text
    assert 'On the split `val`, 12 images' in text
    for category in spec.categories[1:]:
        color = '#{:02x}{:02x}{:02x}'.format(*category.color)
        kind = 'thing' if category.is_thing else 'stuff'
        assert f'| {category.id} | {category.name} | {kind} | {color} |' in text
    assert '<script' not in text.replace('\\<', '') and '](javascript' not in text
    rows = [line for line in text.splitlines() if line.startswith(f'| {spec.categories[0].id} |')]
    assert len(rows) == 1


def test_a_card_of_the_own_comes_first(workdir):
    folder, _ = workdir
    path = folder / 'README.md'
    path.write_text('# mine\n')
    assert find_card(str(folder), None, address='gs://b/x') == '# mine\n'
    path.write_bytes(b'\xff')
    with pytest.raises(ValueError, match='README.md is no UTF-8 text'):
        find_card(str(folder), None, address='gs://b/x')
    path.unlink()
    assert '# nuclei' in find_card('nuclei', None, address='hf://user/x')
