"""The best and the worst images: which they are, and how they are drawn."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pdl_jax.evaluation.gallery import Painter, Ranking, make_shot
from pdl_jax.typing import LabelFormat

FORMAT = LabelFormat(2, (1,), 2, 10)


def test_ranking_keeps_the_extremes():
    scores = np.random.default_rng(0).permutation(20) / 20
    ranking = Ranking()
    for record, score in enumerate(scores.tolist()):
        ranking.offer(record, score)
    order = np.argsort(scores).tolist()
    chosen = ranking.list_chosen()
    assert [record for _, record, _ in chosen] == order[:4] + order[:-5:-1]
    assert [kind for kind, *_ in chosen] == ['worst'] * 4 + ['best'] * 4
    assert all(score == scores[record] for _, record, score in chosen)
    assert order[0] in ranking and order[10] not in ranking


@pytest.mark.parametrize('num', [1, 3, 5, 8])
def test_few_images_are_shown_once_each_whatever_their_scores(num):
    ranking = Ranking()
    for record in range(num):
        ranking.offer(record, 0.5)
    assert sorted(record for _, record, _ in ranking.list_chosen()) == list(range(num))


def test_large_images_are_shrunk_with_their_labels():
    label = np.zeros((300, 1500), np.int32)
    label[:, 750:] = 11
    image = np.where(label[..., None] == 11, 200, 40).astype(np.uint8).repeat(3, 2)
    shot = make_shot(image, label, label, {})
    assert shot.label.shape == shot.image.shape[:2] == (102, 512)
    inner = np.r_[0:255, 257:512]
    np.testing.assert_array_equal(shot.image[:, inner, 0] == 200, shot.label[:, inner] == 11)


@pytest.mark.parametrize('has_instances', [True, False])
@pytest.mark.parametrize('has_image', [True, False])
def test_panels_are_jpegs(has_instances, has_image):
    label = np.full((40, 60), 20, np.int32)
    label[:20], label[20:, :30] = 0, 11
    image = np.full((40, 60, 3), 90, np.uint8) if has_image else None
    painter = Painter(FORMAT, ['sky', 'cat'], np.eye(3, dtype=np.uint8) * 200, has_instances)
    panels = painter.draw(make_shot(image, label, np.roll(label, 5, 1), {11: 0.5}))
    assert list(panels) == ['image'] * has_image + ['truth', 'prediction', 'errors']
    for data in panels.values():
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format == 'JPEG' and max(picture.size) <= 540
