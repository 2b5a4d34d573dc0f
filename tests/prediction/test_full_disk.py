"""A full disk: the error names the file, and no half-written file remains."""

import numpy as np
import pytest
from etils import epath

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.categories import Category
from pdl_jax.prediction.formats import PanopticWriter, SemanticWriter
from pdl_jax.prediction.shards import ShardWriter
from tests.storage.full_disk import small_files

SPEC = DatasetSpec(
    'two', (Category(0, 'a', False, (0, 0, 0)), Category(1, 'b', True, (9, 9, 9))), 0, 255, 1000
)


@pytest.mark.parametrize('kind', [PanopticWriter, SemanticWriter])
def test_predictions_of_an_evaluation(tmp_path, kind):
    noise = np.random.default_rng(0).integers(1000, 1999, (64, 64)).astype(np.int32)
    scores = dict.fromkeys(range(3000), 0.5)
    writer = kind(str(tmp_path), SPEC)
    writer.write(noise[:2, :2], image_id=1, file_name='small.jpg', scores=scores)
    noise[::2] = 0
    path = tmp_path / 'predictions' / 'large.png'
    with small_files(100), pytest.raises(OSError, match=f'could not write {path}: '):
        writer.write(noise, image_id=2, file_name='large.jpg', scores=scores)
    assert [p.name for p in path.parent.iterdir()] == ['small.png']


def test_json_of_an_evaluation(tmp_path):
    writer = PanopticWriter(str(tmp_path), SPEC)
    path = tmp_path / 'predictions.json'
    with small_files(10), pytest.raises(OSError, match=f'could not write {path}: '):
        writer.close()
    assert not path.exists()


@pytest.mark.parametrize('size', [100, 200_000])
def test_shards(tmp_path, size):
    # A small one fails where its buffer is written, at the end.
    writer = ShardWriter(epath.Path(tmp_path), 0, 1)
    name = '.predictions-00000-of-00001.tar.partial'
    with small_files(50), pytest.raises(OSError, match=f'could not write {tmp_path}/{name}: '):
        writer.add({'key': 'a'}, {'a.png': bytes(size)})
        writer.publish()
    writer.close()
    assert not list(tmp_path.iterdir())
