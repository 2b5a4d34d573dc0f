"""Comparison of an exported program with the predictor."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pdl_jax.prediction.predictor import Predictor
from pdl_jax.prediction.result import PanopticResult

# Share of pixels that must be equal where the arithmetic differs.
MIN_EQUAL = 0.999
# In bfloat16 pixels and segments that a network is not sure of get other labels, and which ones
# depends on the order of sums: a program may differ by this factor more than the predictor itself.
_NARROW_FACTOR = 2
_MIN_EQUAL_NARROW = 0.99
_MAX_SCORE_DIFFERENCE = 0.02

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement over some images.

    Attributes:
      num_images: number of images.
      num_identical: images with identical panoptic maps.
      equal: share of pixels with the same label, where instances of a class may be numbered in
        another order.
      score_difference: largest difference of the scores of a segment.
    """

    num_images: int
    num_identical: int
    equal: float
    score_difference: float

    def __str__(self) -> str:
        return (
            f'{self.equal:.3%} of pixels equal, {self.num_identical} of {self.num_images} '
            f'panoptic maps identical, scores differ by at most {self.score_difference:.1e}'
        )


def predict_batches(
    predictor: Predictor, images: Sequence[np.ndarray], batch_size: int, canvas: tuple[int, int]
) -> list[PanopticResult]:
    """Predicts images, u8[H, W, C], in batches and on a canvas as an exported program does."""
    results = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        results += predictor.start(part, batch_size=batch_size, canvas=canvas)()
    return results


def run_batches(
    run: Run, images: Sequence[np.ndarray], batch_size: int
) -> list[dict[str, np.ndarray]]:
    """Runs an exported program on images of one size; black ones fill the last batch."""
    results = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        batch = np.zeros((batch_size, *images[0].shape), np.uint8)
        batch[: len(part)] = part
        found = run(batch)
        results += [{key: x[row] for key, x in found.items()} for row in range(len(part))]
    return results


def compare(
    expected: Sequence[PanopticResult], found: Sequence[Mapping[str, np.ndarray]], divisor: int
) -> Agreement:
    """Compares the results of a program with those of the predictor.

    Args:
      expected: results of the predictor.
      found: one image each, see `program.OUTPUTS`.
      divisor: label divisor.

    Raises:
      RuntimeError: a table does not describe its own map.
    """
    num_identical, equal, total, difference = 0, 0, 0, 0.0
    for one, other in zip(expected, found, strict=True):
        _check_table(other)
        labels = other['panoptic']
        num_identical += bool(np.array_equal(one.panoptic, labels))
        pairs = match_labels(one.panoptic, labels, divisor)
        equal += sum(pairs.values())
        total += labels.size
        difference = max(difference, _compare_scores(one, other, pairs))
    return Agreement(len(found), num_identical, equal / total, difference)


def check_narrow_agreement(agreement: Agreement, own: Agreement) -> None:
    """Checks that a program that computes in bfloat16 may be kept.

    Args:
      agreement: with the predictor in float32.
      own: the predictor's own in bfloat16.

    Raises:
      RuntimeError: it disagrees by more than the predictor itself.
    """
    check_agreement(
        agreement,
        is_exact=False,
        min_equal=min(_MIN_EQUAL_NARROW, 1 - _NARROW_FACTOR * (1 - own.equal)),
        max_difference=max(_MAX_SCORE_DIFFERENCE, _NARROW_FACTOR * own.score_difference),
    )


def check_agreement(
    agreement: Agreement,
    *,
    is_exact: bool,
    min_equal: float = MIN_EQUAL,
    max_difference: float = _MAX_SCORE_DIFFERENCE,
) -> None:
    """Checks that a program may be kept.

    Args:
      agreement: with the predictor.
      is_exact: whether the maps must be identical.
      min_equal: share of pixels that must be equal otherwise.
      max_difference: largest difference of scores.

    Raises:
      RuntimeError: it disagrees with the predictor.
    """
    is_equal = agreement.num_identical == agreement.num_images
    if (is_exact and not is_equal) or agreement.equal < min_equal:
        needed = 'identical maps' if is_exact else f'at least {min_equal:.1%} of equal pixels'
        raise RuntimeError(
            f'the exported program disagrees with the predictor ({agreement}; needed: {needed}): '
            f'nothing was written'
        )
    if agreement.score_difference > max_difference:
        raise RuntimeError(
            f'the scores of the exported program disagree with those of the predictor '
            f'({agreement}; needed: at most {max_difference:.2g}): nothing was written'
        )


def match_labels(one: np.ndarray, other: np.ndarray, divisor: int) -> dict[tuple[int, int], int]:
    """Matches the segments of two panoptic maps i32[H, W].

    Returns:
      The shared pixels of every pair of labels of a class that share most of their pixels with
      each other. Labels that are equal at all pixels are matched with themselves.
    """
    pairs, counts = np.unique(
        np.stack([one.reshape(-1), other.reshape(-1)]), axis=1, return_counts=True
    )
    best_of_one: dict[int, tuple[int, int]] = {}
    best_of_other: dict[int, tuple[int, int]] = {}
    shared = {}
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        if a // divisor != b // divisor:
            continue
        shared[a, b] = count
        best_of_one[a] = max(best_of_one.get(a, (0, 0)), (count, b))
        best_of_other[b] = max(best_of_other.get(b, (0, 0)), (count, a))
    return {
        (a, b): count
        for (a, b), count in shared.items()
        if best_of_one[a] == (count, b) and best_of_other[b] == (count, a)
    }


def _check_table(found: Mapping[str, np.ndarray]) -> None:
    valid = found['segment_valid']
    listed = zip(found['segment_label'][valid], found['segment_area'][valid], strict=True)
    labels, counts = np.unique(found['panoptic'], return_counts=True)
    areas = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    for label, area in listed:
        if areas.get(int(label), 0) != area:
            raise RuntimeError(
                f'the table of the exported program gives segment {label} {area} pixels, and its '
                f'map has {areas.get(int(label), 0)}: nothing was written'
            )


def _compare_scores(
    one: PanopticResult, other: Mapping[str, np.ndarray], pairs: Mapping[tuple[int, int], int]
) -> float:
    expected = {segment.label: segment for segment in one.segments}
    valid = other['segment_valid']
    scores = dict(
        zip(
            other['segment_label'][valid].tolist(),
            other['segment_score'][valid].tolist(),
            strict=True,
        )
    )
    # A pixel more or less changes the score of a small segment.
    differences = [
        abs(expected[a].score - scores[b])
        for (a, b), count in pairs.items()
        if a in expected and b in scores and count == expected[a].area_px
    ]
    return max(differences, default=0.0)
