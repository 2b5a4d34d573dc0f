"""The best and the worst images of an evaluation, drawn for its report page."""

import base64
import bisect
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pdl_jax.systems.drawing.contrast import stretch_contrast
from pdl_jax.systems.drawing.errors import ERROR_COLORS, PixelError, error_picture, find_errors
from pdl_jax.systems.drawing.overlay import enlarge_image, overlay_panoptic
from pdl_jax.typing import LabelFormat

# So many best and so many worst images, each side of at most so many pixels: about a megabyte.
_NUM_IMAGES = 4
_MAX_SIDE_PX = 512
_JPEG_QUALITY = 85


class Shot(NamedTuple):
    """An image that may be shown, at most `_MAX_SIDE_PX` pixels high and wide.

    Attributes:
      image: u8[h, w, 3]; None where only label maps are known.
      label, prediction: i32[h, w], panoptic labels.
      scores: confidence by predicted label.
    """

    image: np.ndarray | None
    label: np.ndarray
    prediction: np.ndarray
    scores: Mapping[int, float]


class Ranking:
    """The records with the best and the worst scores among those that were offered."""

    def __init__(self) -> None:
        # Negated in `_best`, so that the first comes first. Ties go to the earlier record among the
        # worst and to the later one among the best: two images of one score show more than one.
        self._worst: list[tuple[float, int]] = []
        self._best: list[tuple[float, int]] = []

    def offer(self, record: int, score: float) -> None:
        """Offers a record."""
        for ranked, sign in ((self._worst, 1), (self._best, -1)):
            bisect.insort(ranked, (sign * score, sign * record))
            del ranked[_NUM_IMAGES:]

    def __contains__(self, record: int) -> bool:
        return any(record == abs(kept) for _, kept in (*self._worst, *self._best))

    def list_chosen(self) -> list[tuple[str, int, float]]:
        """Lists (kind 'worst' or 'best', record, score); no record is listed twice."""
        worst = [('worst', record, key) for key, record in self._worst]
        taken = {record for _, record, _ in worst}
        best = [('best', -record, -key) for key, record in self._best if -record not in taken]
        return worst + best


@dataclasses.dataclass(frozen=True)
class Painter:
    """Draws shots.

    Attributes:
      label_format: encoding of classes and instances.
      class_names: by semantic class.
      colors: u8[N, 3], by semantic value.
      has_instances: false draws classes only.
    """

    label_format: LabelFormat
    class_names: Sequence[str]
    colors: np.ndarray
    has_instances: bool = True

    def draw(self, shot: Shot) -> dict[str, str]:
        """Draws the panels of a shot: 'image' if there is one, 'truth', 'prediction', 'errors'.

        Returns:
          base64 of a JPEG by panel.
        """
        label_format, divisor = self.label_format, self.label_format.label_divisor
        label, prediction = shot.label, shot.prediction
        if not self.has_instances:
            label_format = dataclasses.replace(label_format, thing_classes=())
            label, prediction = (x // divisor * divisor for x in (label, prediction))
        if shot.image is None:
            image, alpha = np.full((*label.shape, 3), 255, np.uint8), 0.8
        else:
            image, alpha = stretch_contrast(shot.image), 0.5

        def overlay(panoptic: np.ndarray, scores: Mapping[int, float] | None) -> np.ndarray:
            return overlay_panoptic(
                image,
                panoptic,
                label_format,
                class_names=self.class_names,
                colors=self.colors,
                alpha=alpha,
                scores=scores,
                min_side_px=_MAX_SIDE_PX,
            )

        errors = find_errors(prediction, label, label_format)
        shown = None if shot.image is None else image
        panels = {} if shown is None else {'image': enlarge_image(image, _MAX_SIDE_PX)}
        panels |= {
            'truth': overlay(label, None),
            'prediction': overlay(prediction, shot.scores),
            'errors': enlarge_image(error_picture(errors, shown), _MAX_SIDE_PX),
        }
        return {name: encode_jpeg(panel) for name, panel in panels.items()}


def make_shot(
    image: np.ndarray | None,
    label: np.ndarray,
    prediction: np.ndarray,
    scores: Mapping[int, float],
) -> Shot:
    """Shrinks an image u8[H, W, 3] and its label maps i32[H, W] to what is shown."""
    height, width = label.shape
    factor = min(1.0, _MAX_SIDE_PX / max(height, width))
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    if factor == 1:
        return Shot(image, label.copy(), prediction.copy(), scores)
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * side // n, side - 1).astype(np.int64)
        for n, side in ((new_height, height), (new_width, width))
    )
    at = np.ix_(rows, columns)
    if image is not None:
        image = np.asarray(
            Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BOX)
        )
    return Shot(image, label[at], prediction[at], scores)


def encode_jpeg(picture: np.ndarray) -> str:
    """Encodes a picture u8[H, W, 3] as base64 of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'JPEG', quality=_JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def list_error_colors() -> dict[str, str]:
    """Lists the CSS colour of each kind of error in the panel 'errors'."""
    return {
        kind.name.lower(): '#{:02x}{:02x}{:02x}'.format(*color)
        for kind, color in ERROR_COLORS.items()
        if kind != PixelError.CORRECT
    }


def list_pictures(
    ranking: Ranking, panels: Mapping[int, Mapping[str, str]], file_names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Lists the chosen images with their panels: {'kind', 'file_name', 'score', 'panels'}."""
    return [
        {'kind': kind, 'file_name': file_names[record], 'score': score, 'panels': panels[record]}
        for kind, record, score in ranking.list_chosen()
        if record in panels
    ]
