"""The analysis of score files, with pictures of the best and the worst images."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdl_jax.data.file_names import FolderFiles
from pdl_jax.data.images import decode_image
from pdl_jax.data.notices import Notices
from pdl_jax.data.palette import choose_colors
from pdl_jax.evaluation.analysis.analysis import AnalyzedClasses, make_analysis, score_image
from pdl_jax.evaluation.analysis.causes import JudgedSegments
from pdl_jax.evaluation.files.file_maps import read_maps
from pdl_jax.evaluation.files.panoptic_files import FilePair, PanopticFiles, make_path
from pdl_jax.storage.outside_files import read_outside_file

_IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png')


class FileAnalysis:
    """Explains the scores of files, see `score_files.evaluate_files`.

    Args:
      images_dir: folder of the images, whose names are those of the labels but for the ending; None
        draws the label maps alone.

    Attributes:
      values: see `analysis.make_analysis`; with the pictures of `gallery`. None before `finish`.

    Raises:
      FileNotFoundError: the folder does not exist.
    """

    def __init__(self, images_dir: str | os.PathLike | None = None) -> None:
        self._images = None if images_dir is None else make_path(images_dir)
        self._folder = None
        if self._images is not None:
            self._folder = FolderFiles(self._images, _IMAGE_ENDINGS, Notices())
        self.values: dict[str, Any] | None = None

    def finish(
        self,
        files: PanopticFiles,
        pairs: Sequence[FilePair],
        segments: Sequence[JudgedSegments],
        confusion: np.ndarray,
    ) -> None:
        """Makes the analysis.

        Args:
          files: folders and categories.
          pairs: the images.
          segments: those of each image.
          confusion: i64[C, C + 1], pixels by labelled and predicted class, void last.
        """
        categories = files.categories
        classes = AnalyzedClasses(categories.keys, categories.names, categories.is_thing)
        num_classes = len(categories.ids)
        images = [
            score_image(pair.label.png, judged, num_classes=num_classes)
            for pair, judged in zip(pairs, segments, strict=True)
        ]
        analysis = make_analysis(classes, confusion, images, segments)
        scores = [image.score for image in images]
        self.values = {**analysis, **self._draw(files, pairs, scores)}

    def _draw(
        self, files: PanopticFiles, pairs: Sequence[FilePair], scores: Sequence[float | None]
    ) -> dict[str, Any]:
        """Draws the best and the worst images: 'pictures' and 'error_colors'."""
        # These import JAX, which scoring itself does without.
        from pdl_jax.evaluation.gallery import (
            Painter,
            Ranking,
            list_error_colors,
            list_pictures,
            make_shot,
        )
        from pdl_jax.typing import LabelFormat

        ranking = Ranking()
        for i, score in enumerate(scores):
            if score is not None:
                ranking.offer(i, score)
        categories = files.categories
        num_classes = len(categories.ids)
        colors = np.array(choose_colors(num_classes), np.uint8)
        panels = {}
        for _, i, _ in ranking.list_chosen():
            maps = read_maps(files, pairs[i])
            label_format = LabelFormat(
                num_classes=num_classes,
                thing_classes=tuple(categories.thing_classes),
                ignore_label=num_classes,
                label_divisor=maps.label_divisor,
            )
            image = self._read_image(pairs[i].label.png, maps.label.shape)
            shot = make_shot(image, maps.label, maps.prediction, maps.scores)
            panels[i] = Painter(label_format, categories.names, colors).draw(shot)
        names = {i: pair.label.png for i, pair in enumerate(pairs)}
        return {
            'pictures': list_pictures(ranking, panels, names),
            'error_colors': list_error_colors(),
        }

    def _read_image(self, label_png: str, size: tuple[int, ...]) -> np.ndarray | None:
        """Reads the image of a label, u8[H, W, 3]; None if there is no folder of images.

        Raises:
          FileNotFoundError: the folder lacks the image.
          ValueError: the image is damaged, or has another size than its label.
        """
        if self._images is None or self._folder is None:
            return None
        found = self._folder.find(label_png, 'the label file')
        if found is None:
            raise FileNotFoundError(
                f'{self._images} has no image of the label {label_png}: give the folder of the '
                f'images, or leave --images out'
            )
        path = self._images / found
        image = decode_image(read_outside_file(path), name=str(path))
        if image.shape[:2] != size:
            raise ValueError(
                f'{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width), its label '
                f'{size[0]}x{size[1]}: give the images that were labelled'
            )
        return image
