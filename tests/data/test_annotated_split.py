"""The parts that readers share: pairs of files by name."""

import pytest
from etils import epath

from pdl_jax.data import annotated_split, catalog


def test_names_choose_pairs_in_their_order(tmp_path):
    folder = epath.Path(tmp_path)
    listing = {name: f'{name}.png' for name in 'abc'}
    pairs = annotated_split.pair_files(
        listing, listing, images_dir=folder, labels_dir=folder, names=('c', 'a')
    )
    assert [pair.image_id for pair in pairs] == ['c', 'a']
    with pytest.raises(FileNotFoundError, match='1 of 2 names lack a label map.*first d'):
        annotated_split.pair_files(
            listing, listing, images_dir=folder, labels_dir=folder, names=('c', 'd')
        )


def test_a_split_has_images():
    def load(item):
        raise AssertionError(item)

    with pytest.raises(ValueError, match="'coco' has no annotated image"):
        annotated_split.AnnotatedSplit(catalog.coco(), (), load, '')
