"""The networks that come with the package load by name, fit into it, and see what they are for."""

import numpy as np
import pytest

from pdl_jax.data.scenes import dataset
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.storage import shipped
from pdl_jax.storage.checkpoint import find_checkpoint
from tests.convert.compiling import compiling_fast

MAX_BYTES = 6_000_000
CARD_PARTS = ('## Data', '## Training', '## Measured', '## Limits', 'pdl_jax train --config=')


def test_they_are_small_and_described():
    names = shipped.list_shipped()
    assert names == ['nuclei', 'scenes']
    files = [path for path in shipped._FOLDER.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    for name in names:
        card = shipped.read_card(name)
        for part in CARD_PARTS:
            assert part in card, (name, part)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint('nuclei').is_relative_to(shipped._FOLDER)
    (tmp_path / 'nuclei').mkdir()
    with pytest.raises(FileNotFoundError, match=r'comes with the package: nuclei, scenes'):
        find_checkpoint('nuclei')


@pytest.mark.slow
def test_nuclei_finds_discs():
    rng = np.random.default_rng(0)
    image = rng.normal(12, 2, (128, 160))
    y, x = np.mgrid[:128, :160]
    centers = [(20 + 30 * i, 20 + 30 * j) for i in range(4) for j in range(5)]
    for center_y, center_x in centers:
        inside = (y - center_y) ** 2 + (x - center_x) ** 2 < 8**2
        image[inside] += rng.uniform(30, 60)
    with compiling_fast():
        result = Predictor.load('nuclei')(image.clip(0, 255).astype(np.uint8))
    found = [segment for segment in result.segments if segment.is_thing]
    assert len(found) == len(centers)
    for center_y, center_x in centers:
        assert any(
            abs(segment.centroid.y - center_y) < 2
            and abs(segment.centroid.x - center_x) < 2
            and 0.7 < segment.area_px / (np.pi * 8**2) < 1.4
            for segment in found
        )


@pytest.mark.slow
def test_scenes_labels_new_scenes():
    with compiling_fast():
        predictor = Predictor.load('scenes')
        scenes = [dataset.render_scene(977, 'val', index) for index in range(6)]
        results = predictor([scene.image for scene in scenes])
    num_right = num_labelled = 0
    for scene, result in zip(scenes, results, strict=True):
        truth = np.zeros(scene.ids.shape, np.int32)
        for segment in scene.segments:
            truth[scene.ids == segment['id']] = segment['category_id']
        found = np.zeros(scene.ids.shape, np.int32)
        for segment in result.segments:
            found[result.panoptic == segment.label] = segment.category_id
        num_right += np.count_nonzero((truth == found) & (truth > 0))
        num_labelled += np.count_nonzero(truth)
    assert num_right > 0.8 * num_labelled
