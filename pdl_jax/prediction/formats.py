"""Writes predictions: panoptic ones in the official COCO format, semantic ones as maps of class indices."""

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


def describe_segments(panoptic: np.ndarray, spec: DatasetSpec) -> list[dict[str, Any]]:
    """Lists the segments of a panoptic map, ascending by label.

    Args:
      panoptic: i32[H, W].
      spec: what the labels mean.

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
    """A PNG in which the i-th segment has the id i + 1 as R + 256 G + 65536 B, and void is 0."""
    ids = np.zeros(panoptic.shape, np.int32)
    if segments:
        labels = np.array([segment['label'] for segment in segments])
        index = np.minimum(np.searchsorted(labels, panoptic), len(labels) - 1)
        ids = np.where(labels[index] == panoptic, index + 1, 0).astype(np.int32)
    return encode_ids(ids)


def encode_semantic(semantic: np.ndarray, spec: DatasetSpec) -> bytes:
    """A PNG of semantic values i32[H, W]: 8 bits with the colours of the classes as palette, 16 bits beyond 256 values."""
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

    def __init__(self, directory: str, spec: DatasetSpec):
        self._folder = epath.Path(directory) / 'predictions'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spec = spec
        self._names = set()

    def write(
        self, panoptic: np.ndarray, *, image_id: Any, file_name: str, scores: Mapping[int, float]
    ) -> None:
        """Writes the classes of one panoptic map i32[H, W]; the PNG takes the last part of `file_name`."""
        del image_id, scores
        data = encode_semantic(panoptic // self._spec.label_divisor, self._spec)
        (self._folder / _claim_name(file_name, self._names)).write_bytes(data)

    def close(self) -> None:
        """Nothing is left to write."""


class PanopticWriter:
    """Collects the predictions of one split in DIRECTORY/predictions/*.png and DIRECTORY/predictions.json.

    That pair is what panopticapi and the COCO server take.
    """

    def __init__(self, directory: str, spec: DatasetSpec):
        self._directory = epath.Path(directory)
        self._folder = self._directory / 'predictions'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spec = spec
        self._annotations = []
        self._names = set()

    def write(
        self, panoptic: np.ndarray, *, image_id: Any, file_name: str, scores: Mapping[int, float]
    ) -> None:
        """Writes one map i32[H, W] with the scores of its labels; the PNG is named like `file_name`."""
        name = _claim_name(file_name, self._names)
        segments = describe_segments(panoptic, self._spec)
        (self._folder / name).write_bytes(encode_segments(panoptic, segments))
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
        path = self._directory / 'predictions.json'
        path.write_text(json.dumps({'annotations': self._annotations}))


def _claim_name(file_name: str, taken: set[str]) -> str:
    name = os.path.splitext(os.path.basename(file_name))[0] + '.png'
    if name in taken:
        raise ValueError(
            f'two images would both be written as {name}: their file names must differ'
        )
    taken.add(name)
    return name
