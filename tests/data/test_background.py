"""Background as a class of its own."""

import numpy as np
import pytest

from pdl_jax.data.background import add_background
from pdl_jax.data.readers import panoptic_folder
from tests.data.tiny_folder import write_tiny_folder


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return panoptic_folder.read_split(**write_tiny_folder(tmp_path_factory.mktemp('folder')))


def test_void_becomes_the_last_class_and_the_rest_stays(source):
    wider = add_background(source)
    assert wider.spec.class_names == (*source.spec.class_names, 'background')
    assert wider.spec.label_format.thing_classes == source.spec.label_format.thing_classes
    before, after = source.load(source.items[0]).panoptic, wider.load(wider.items[0]).panoptic
    is_void = before == source.spec.label_format.void_label
    assert is_void.any() and (after[is_void] == 3 * wider.spec.label_divisor).all()
    np.testing.assert_array_equal(after[~is_void], before[~is_void])


def test_a_taken_name_is_refused(source):
    with pytest.raises(ValueError, match='--background=sky is the name of a class already'):
        add_background(source, 'sky')
