"""Numbers of objects through the frames of videos of which the truth is known."""

import numpy as np
import pytest

from pdl_jax.prediction.linking import choose_links, count_overlaps
from pdl_jax.prediction.tracking import Tracker, TrackOptions
from tests.prediction.label_maps import BAR, GROUND, SPEC, make_result

SIZE = (120, 160)


def draw_frame(objects) -> np.ndarray:
    """Disks on ground; a later one hides an earlier one.

    Args:
      objects: label, row, column and radius of each.
    """
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    panoptic = np.full(SIZE, GROUND * 1000, np.int32)
    for label, row, column, radius in objects:
        panoptic[(y - row) ** 2 + (x - column) ** 2 < radius**2] = label
    return panoptic


def track(frames, options=None):
    """Follows frames.

    Returns:
      Per frame the number of each true label, and how often a true object changes its number.
    """
    tracker = Tracker(options or TrackOptions())
    history, last, num_switches = [], {}, 0
    for truth in frames:
        result = make_result(truth)
        numbers = tracker.update(result)
        seen = {}
        for label, number in numbers.items():
            (true_label,) = np.unique(truth[result.panoptic == label])
            seen[int(true_label)] = number
        num_switches += sum(last[k] != n for k, n in seen.items() if k in last)
        last |= seen
        history.append(seen)
    return history, num_switches


def cross(num_frames=30):
    """Three disks: two cross in the middle, one hides the other for some frames; one stays."""
    for t in range(num_frames):
        yield draw_frame(
            [
                (1, 60, 20 + 4 * t, 14),
                (2, 62, 140 - 4 * t, 16),
                (3, 20, 30, 10),
            ]
        )


def test_objects_that_cross_keep_their_numbers():
    history, num_switches = track(cross())
    assert num_switches == 0
    # The smaller one is hidden for a while.
    assert any(1 not in seen for seen in history) and 1 in history[-1]
    assert history[0] == {1: 1, 2: 2, 3: 3} or set(history[0].values()) == {1, 2, 3}
    assert history[-1] == history[0]
    assert max(max(seen.values()) for seen in history) == 3


def test_without_motion_a_crossing_mixes_numbers_up():
    _, num_switches = track(cross(), TrackOptions(is_moving=False))
    assert num_switches > 0


@pytest.mark.parametrize(('gap', 'is_kept'), [(5, True), (6, False)])
def test_gaps_are_bridged_up_to_a_limit(gap, is_kept):
    frames = [draw_frame([(1, 60, 30 + 2 * t, 12)]) for t in range(8)]
    frames += [draw_frame([])] * gap
    frames += [draw_frame([(1, 60, 30 + 2 * t, 12)]) for t in range(8 + gap, 12 + gap)]
    history, num_switches = track(frames)
    assert (num_switches == 0) == is_kept
    assert history[-1][1] == (1 if is_kept else 2)


def test_an_object_that_is_half_hidden_keeps_its_number():
    # A post of another class passes over a disk.
    frames = []
    for t in range(30):
        frame = draw_frame([(1, 60, 80, 20)])
        frame[:, 10 + 4 * t : 40 + 4 * t] = BAR * 1000 + 1
        frames.append(frame)
    history, num_switches = track(frames)
    assert num_switches == 0 and all(1 in seen for seen in history)


def test_objects_that_grow_slowly_are_followed():
    frames = [draw_frame([(1, 60, 80, 8 + 2 * t)]) for t in range(20)]
    assert track(frames)[1] == 0


def test_an_object_whose_class_flickers_keeps_its_number():
    frames = [
        draw_frame([(label, 60, 80 + 2 * t, 12)])
        for t, label in enumerate((1, 1, BAR * 1000 + 1, 1, 1))
    ]
    history, _ = track(frames)
    assert [set(seen.values()) for seen in history] == [{1}] * 5


def test_another_class_beside_an_object_is_another_object():
    # It hides half of the first.
    frames = [
        draw_frame([(1, 60, 80, 12)]),
        draw_frame([(1, 60, 80, 12), (BAR * 1000 + 1, 60, 92, 12)]),
    ]
    history, _ = track(frames)
    assert history == [{1: 1}, {1: 1, BAR * 1000 + 1: 2}]


def test_objects_that_leave_and_new_ones_are_told_apart():
    frames = [draw_frame([(1, 60, 140 + 4 * t, 12), (2, 60, -30 + 4 * t, 12)]) for t in range(25)]
    history, num_switches = track(frames)
    assert num_switches == 0
    assert {number for seen in history for number in seen.values()} == {1, 2}


def test_links_are_those_of_the_highest_iou():
    first, second = np.zeros((10, 30), np.int32), np.zeros((10, 30), np.int32)
    first[:, :10], first[:, 10:16] = 1, 2
    second[:, 2:12], second[:, 12:20] = 7, 8
    overlaps = count_overlaps(first, second)
    assert [(o.first, o.second, o.shared_px) for o in overlaps] == [
        (1, 7, 80),
        (2, 7, 20),
        (2, 8, 40),
    ]
    assert overlaps[0].iou == pytest.approx(80 / 120)
    assert overlaps[2].containment == pytest.approx(40 / 60)
    links = choose_links(overlaps, min_iou=0.3)
    assert [(o.first, o.second) for o in links] == [(1, 7), (2, 8)]
    assert [(o.first, o.second) for o in choose_links(overlaps, min_iou=0.5)] == [(1, 7)]
    by_share = choose_links(overlaps, min_iou=0.5, min_containment=0.6)
    assert [(o.first, o.second) for o in by_share] == [(1, 7), (2, 8)]


@pytest.mark.parametrize('field', ['min_iou', 'min_containment', 'max_gap'])
def test_impossible_options_are_refused(field):
    with pytest.raises(ValueError, match=rf'{field} \(=-1\)'):
        TrackOptions(**{field: -1})


def test_stuff_gets_no_number():
    assert Tracker().update(make_result(draw_frame([]))) == {}
    assert SPEC.label_format.stuff_classes == (2, 3)
