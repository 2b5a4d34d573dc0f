"""Error maps against pixel by pixel comparisons."""

import dataclasses

import numpy as np
import pytest

from pdl_jax.systems.drawing.errors import ERROR_COLORS, PixelError, error_picture, find_errors
from pdl_jax.systems.drawing.legend import list_error_entries
from tests.systems.drawing.scene import FORMAT, VOID, make_scene


def make_random_maps(seed):
    """Two maps of blocks of stuff, things, crowds and void that agree in many pixels."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1000, 2000, 2001, 2002, 2003, 3001, 3002, VOID])
    blocks = rng.choice(labels, (2, 8, 9))
    blocks[1] = np.where(rng.random((8, 9)) < 0.5, blocks[0], blocks[1])
    return np.kron(blocks, np.ones((1, 5, 4), int)).astype(np.int32)


@pytest.mark.parametrize('seed', range(4))
def test_counts_equal_those_of_the_confusion_matrix(seed):
    panoptic, truth = make_random_maps(seed)
    errors = find_errors(panoptic, truth, FORMAT)
    counts = np.bincount(errors.ravel(), minlength=len(PixelError))
    confusion = np.zeros((256, 256), int)
    np.add.at(confusion, (truth.ravel() // 1000, panoptic.ravel() // 1000), 1)
    things, stuff, void = [2, 3], [0, 1], [255]
    assert counts[PixelError.VOID] == confusion[void].sum()
    same = confusion.trace() - confusion[255, 255]
    assert counts[PixelError.CORRECT] + counts[PixelError.WRONG_INSTANCE] == same
    wrong = confusion[np.ix_(things, things)].sum() - confusion[things, things].sum()
    wrong += confusion[np.ix_(stuff, stuff)].sum() - confusion[stuff, stuff].sum()
    assert counts[PixelError.WRONG_CLASS] == wrong
    missed = confusion[np.ix_(things, stuff + void)].sum() + confusion[np.ix_(stuff, void)].sum()
    assert counts[PixelError.MISSED] == missed
    assert counts[PixelError.FALSE] == confusion[np.ix_(stuff, things)].sum()
    assert counts.sum() == truth.size and (counts > 0).all()


@pytest.mark.parametrize('seed', range(4))
def test_objects_are_matched_one_to_one_by_iou(seed):
    panoptic, truth = make_random_maps(seed)
    errors = find_errors(panoptic, truth, FORMAT)
    for semantic in (2, 3):
        # The greedy matching, written as a loop over masks.
        wanted = [v for v in np.unique(truth) if v // 1000 == semantic and v % 1000]
        found = [v for v in np.unique(panoptic) if v // 1000 == semantic and v % 1000]
        iou = {
            (t, p): np.sum((truth == t) & (panoptic == p)) / np.sum((truth == t) | (panoptic == p))
            for t in wanted
            for p in found
        }
        while iou and max(iou.values()) > 0:
            t, p = max(iou, key=lambda pair: (iou[pair], -pair[0], -pair[1]))
            both = (truth == t) & (panoptic == p)
            assert (errors[both] == PixelError.CORRECT).all()
            iou = {pair: v for pair, v in iou.items() if pair[0] != t and pair[1] != p}
            others = (truth == t) & (panoptic // 1000 == semantic) & (panoptic % 1000 > 0) & ~both
            assert (errors[others] == PixelError.WRONG_INSTANCE).all()


def test_a_split_a_merge_and_a_crowd():
    truth = np.repeat(np.array([[2001, 2001, 2002, 2003, 2000, 2000]], np.int32), 4, axis=0)
    panoptic = truth.copy()
    panoptic[3, :2] = 2004
    panoptic[:, 3] = 2002
    panoptic[:, 5] = 2009
    errors = find_errors(panoptic, truth, FORMAT)
    right, wrong = PixelError.CORRECT, PixelError.WRONG_INSTANCE
    # One half of the merged pair is right; any object is right for a crowd.
    assert errors[0].tolist() == [right, right, right, wrong, right, right]
    assert errors[3].tolist() == [wrong, wrong, right, wrong, right, right]


def test_equal_maps_have_no_errors_and_a_semantic_network_no_wrong_instance():
    scene = make_scene()
    errors = find_errors(scene, scene, FORMAT)
    assert set(np.unique(errors)) == {PixelError.VOID, PixelError.CORRECT}
    np.testing.assert_array_equal(errors == PixelError.VOID, scene == VOID)
    semantic = scene // 1000 * 1000
    label_format = dataclasses.replace(FORMAT, thing_classes=())
    errors = find_errors(semantic, scene // 1000 * 1000, label_format)
    assert PixelError.WRONG_INSTANCE not in errors
    with pytest.raises(ValueError, match=r'\(240, 319\).*must have one size'):
        find_errors(scene[:, 1:], scene, FORMAT)


def test_picture_and_legend():
    errors = np.arange(6, dtype=np.uint8)[None].repeat(2, axis=0)
    picture = error_picture(errors)
    assert [tuple(c) for c in picture[1].tolist()] == [ERROR_COLORS[kind] for kind in PixelError]
    image = np.full((2, 6, 3), 100, np.uint8)
    over = error_picture(errors, image)
    np.testing.assert_array_equal(over[0, 1], [124, 124, 124])
    np.testing.assert_array_equal(np.delete(over, 1, axis=1), np.delete(picture, 1, axis=1))
    names = [name for name, _ in list_error_entries(errors)]
    assert names[:3] == ['void 16.7%', 'correct 16.7%', 'wrong instance 16.7%']
