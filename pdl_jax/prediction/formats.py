"""Files of predictions: COCO panoptic format, and PNGs of class indices for semantic networks."""

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.images import encode_ids
from pdl_jax.storage.paths import write_whole


def describe_segments(panoptic: np.ndarray, spec: DatasetSpec) -> list[dict[str, Any]]:
    """Lists the segments of a panoptic map, ascending by label.

    Args:
      panoptic: i32[H, W].
      spec: classes and label format.

    Returns:
      One dict per segment that is not void: 'label', 'category_id', 'area' in pixels and 'bbox' as
      [x, y, width, height] in pixels.
    """
    segments = []
    labels, inverse, areas = np.unique(panoptic, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(panoptic.shape)
    for i, (label, area) in enumerate(zip(labels.tolist(), areas.tolist(), strict=True)):
        category = spec.category_of_class.get(label // spec.label_divisor)
        if category is None:
            continue
        rows = np.flatnonzero((inverse == i).any(axis=1))
        columns = np.flatnonzero((inverse == i).any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        segments.append(
            {
                'label': label,
                'category_id': category.id,
                'area': area,
                'bbox': [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            }
        )
    return segments


def encode_segments(panoptic: np.ndarray, segments: list[dict[str, Any]]) -> bytes:
    """Encodes a panoptic map as an id PNG: segment i has the id i + 1, void 0.

    Args:
      panoptic: i32[H, W].
      segments: result of `describe_segments`.

    Returns:
      An 8-bit RGB PNG, id = R + 256 G + 65536 B.
    """
    ids = np.zeros(panoptic.shape, np.int32)
    if segments:
        labels = np.array([segment['label'] for segment in segments])
        index = np.minimum(np.searchsorted(labels, panoptic), len(labels) - 1)
        ids = np.where(labels[index] == panoptic, index + 1, 0).astype(np.int32)
    return encode_ids(ids)


def encode_semantic(semantic: np.ndarray, spec: DatasetSpec) -> bytes:
    """Encodes semantic values as a PNG.

    Args:
      semantic: i32[H, W].
      spec: classes and label format.

    Returns:
      An 8-bit PNG with the colours of the classes as its palette; a 16-bit grey one if there are
      more than 256 semantic values.
    """
    buffer = io.BytesIO()
    if spec.label_format.num_semantic_values > 256:
        Image.fromarray(semantic.astype(np.uint16)).save(buffer, format='PNG')
        return buffer.getvalue()
    image = Image.fromarray(semantic.astype(np.uint8))
    image.putpalette(spec.make_palette().tobytes())
    image.save(buffer, format='PNG')
    return buffer.getvalue()


class SemanticWriter:
    """Writes the predictions of one split to DIRECTORY/predictions/*.png, see `encode_semantic`."""

    def __init__(self, directory: str, spec: DatasetSpec) -> None:
        self._folder = epath.Path(directory) / 'predictions'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spec = spec
        self._names: set[str] = set()

    def write(
        self, panoptic: np.ndarray, *, image_id: Any, file_name: str, scores: Mapping[int, float]
    ) -> None:
        """Writes the classes of one panoptic map.

        Args:
          panoptic: i32[H, W].
          image_id, scores: unused; see `PanopticWriter.write`.
          file_name: name of the image; the PNG gets its stem.

        Raises:
          ValueError: another image had the same stem.
        """
        del image_id, scores
        data = encode_semantic(panoptic // self._spec.label_divisor, self._spec)
        write_whole(self._folder / _claim_name(file_name, self._names), data)

    def close(self) -> None:
        """Does nothing: every map has been written."""


class PanopticWriter:
    """Writes the predictions of one split to DIRECTORY/predictions/*.png and predictions.json.

    panopticapi and the COCO server take this pair.
    """

    def __init__(self, directory: str, spec: DatasetSpec) -> None:
        self._directory = epath.Path(directory)
        self._folder = self._directory / 'predictions'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spec = spec
        self._annotations: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def write(
        self, panoptic: np.ndarray, *, image_id: Any, file_name: str, scores: Mapping[int, float]
    ) -> None:
        """Writes the PNG of one map and keeps its description for the JSON.

        Args:
          panoptic: i32[H, W].
          image_id: id of the image in the annotation file.
          file_name: name of the image; the PNG gets its stem.
          scores: panoptic label -> score.

        Raises:
          ValueError: another image had the same stem.
        """
        name = _claim_name(file_name, self._names)
        segments = describe_segments(panoptic, self._spec)
        write_whole(self._folder / name, encode_segments(panoptic, segments))
        infos = [
            {
                'id': i,
                **{key: segment[key] for key in ('category_id', 'area', 'bbox')},
                'iscrowd': 0,
                'score': scores[segment['label']],
            }
            for i, segment in enumerate(segments, 1)
        ]
        self._annotations.append({'image_id': image_id, 'file_name': name, 'segments_info': infos})

    def close(self) -> None:
        """Writes the JSON."""
        content = json.dumps({'annotations': self._annotations}).encode()
        write_whole(self._directory / 'predictions.json', content)


def _claim_name(file_name: str, taken: set[str]) -> str:
    name = os.path.splitext(os.path.basename(file_name))[0] + '.png'
    if name in taken:
        raise ValueError(
            f'two images would both be written as {name}: their file names must differ'
        )
    taken.add(name)
    return name
