"""Loaders like those of the PyTorch ports and DeepLab2, with all preprocessing on the host.

Pillow and NumPy decode, resize, scale, crop and flip. Targets are drawn in NumPy, in the way of
bowenc0221/panoptic-deeplab or of DeepLab2.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.files import find_annotations
from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR
from benchmarks.program import Program, Setup

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_SCALES = np.linspace(0.5, 2.0, 16)
_SIGMA_PX = 8
_SMALL_AREA_PX = 4096
_SMALL_WEIGHT = 3.0
_NUM_BUFFERED = 2

Targets = dict[str, np.ndarray]


def prepare(setup: Setup) -> Program:
    """Makes the loader of `setup.mode`; worker processes are those of PyTorch's DataLoader."""
    dataset = Dataset(setup.files['photographs'], setup.arguments, setup.mode)
    reader = _Reader(dataset, setup.arguments)
    num_batches = setup.arguments['num_images'] // setup.arguments['batch']
    with reader.start():
        reader.read()

    def run():
        for _ in range(num_batches):
            reader.read()

    return Program(run, num_items=num_batches * setup.arguments['batch'], open=reader.start)


class Dataset:
    """Samples of a folder in the COCO panoptic format: 'image' f32[3, H, W] and targets.

    Args:
      folder: folder of images and annotations, see `find_annotations`.
      arguments: arguments of the case: 'crop_size', and 'resize_px', the length of the longer side
        before the random scale.
      mode: 'bowenc0221' or 'deeplab2'.
    """

    def __init__(self, folder: str, arguments: Mapping[str, Any], mode: str):
        paths = find_annotations(folder)
        contents = json.loads(pathlib.Path(paths['json_path']).read_text())
        self._images, self._panoptic = (
            pathlib.Path(paths[key]) for key in ('images_dir', 'panoptic_dir')
        )
        self._annotations = contents['annotations']
        classes = {category['id']: i for i, category in enumerate(contents['categories'])}
        self._things = [
            i for i, category in enumerate(contents['categories']) if category['isthing']
        ]
        for annotation in self._annotations:
            for number, segment in enumerate(annotation['segments_info'], 1):
                segment['class'] = classes[segment['category_id']]
                instance = (
                    number if segment['class'] in self._things and not segment['iscrowd'] else 0
                )
                segment['label'] = segment['class'] * LABEL_DIVISOR + instance
        self._arguments, self._mode = arguments, mode

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int) -> Targets:
        annotation = self._annotations[index]
        rng = np.random.default_rng()
        image_path = self._images / (pathlib.Path(annotation['file_name']).stem + '.jpg')
        with Image.open(image_path) as file:
            image = file.convert('RGB')
        with Image.open(self._panoptic / annotation['file_name']) as file:
            colors = np.asarray(file.convert('RGB'), np.int32)
        ids = Image.fromarray(colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2])
        image, ids = self._augment(rng, image, ids)
        image = ((image.astype(np.float32) / 255 - _MEAN) / _DEVIATION).transpose(2, 0, 1)
        if self._mode == 'deeplab2':
            panoptic = np.full(ids.shape, IGNORE_LABEL * LABEL_DIVISOR, np.int32)
            for segment in annotation['segments_info']:
                panoptic[ids == segment['id']] = segment['label']
            return {'image': image, **make_targets_by_label(panoptic, self._things)}
        return {
            'image': image,
            **make_targets_by_segment(ids, annotation['segments_info'], self._things),
        }

    def _augment(self, rng, image, ids):
        factor = self._arguments['resize_px'] / max(image.size) * rng.choice(_SCALES)
        size = tuple(max(1, int(n * factor)) for n in image.size)
        image = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        ids = np.asarray(ids.resize(size, Image.Resampling.NEAREST))
        crop = self._arguments['crop_size']
        pads = [(0, max(wanted - n, 0)) for wanted, n in zip(crop, ids.shape, strict=True)]
        image = np.pad(image, (*pads, (0, 0)), constant_values=124)
        ids = np.pad(ids, pads)
        y, x = (rng.integers(0, n - wanted + 1) for n, wanted in zip(ids.shape, crop, strict=True))
        window = slice(y, y + crop[0]), slice(x, x + crop[1])
        image, ids = image[window], ids[window]
        return (image[:, ::-1], ids[:, ::-1]) if rng.random() < 0.5 else (image, ids)


def make_targets_by_segment(
    ids: np.ndarray, segments: Sequence[Mapping[str, Any]], things: Sequence[int]
) -> Targets:
    """Makes targets in the way of bowenc0221, with a loop over the segments of the annotation.

    Args:
      ids: i32[H, W], segment ids.
      segments: segments with 'id', 'class' and 'iscrowd'.
      things: classes with instances.
    """
    height, width = ids.shape
    targets = _start_targets((height, width))
    rows = np.ones_like(ids, dtype=np.float32).cumsum(0) - 1
    columns = np.ones_like(ids, dtype=np.float32).cumsum(1) - 1
    for segment in segments:
        mask = ids == segment['id']
        is_thing = segment['class'] in things
        targets['semantic'][mask] = segment['class']
        if not segment['iscrowd']:
            targets['center_weight'][mask] = 1
            if is_thing:
                targets['offset_weight'][mask] = 1
        if not is_thing:
            continue
        where = np.where(mask)
        if len(where[0]) == 0:
            continue
        if len(where[0]) < _SMALL_AREA_PX:
            targets['semantic_weight'][mask] = _SMALL_WEIGHT
        center_y, center_x = np.mean(where[0]), np.mean(where[1])
        _draw_center(targets['center'], int(center_y), int(center_x))
        targets['offset'][where[0], where[1], 0] = center_y - rows[where]
        targets['offset'][where[0], where[1], 1] = center_x - columns[where]
    return targets


def make_targets_by_label(panoptic: np.ndarray, things: Sequence[int]) -> Targets:
    """Makes targets in the way of DeepLab2, with a loop over the values of the label map.

    Args:
      panoptic: i32[H, W], class * LABEL_DIVISOR + instance; instance 0 of a thing is a crowd.
      things: classes with instances.
    """
    semantic, instance = panoptic // LABEL_DIVISOR, panoptic % LABEL_DIVISOR
    targets = _start_targets(panoptic.shape)
    targets['semantic'] = semantic
    is_thing = np.isin(semantic, things)
    is_crowd = is_thing & (instance == 0)
    targets['center_weight'] = (~is_crowd & (semantic != IGNORE_LABEL)).astype(np.float32)
    targets['offset_weight'] = (is_thing & ~is_crowd).astype(np.float32)
    for label in np.unique(panoptic):
        if label // LABEL_DIVISOR == IGNORE_LABEL or label % LABEL_DIVISOR == 0:
            continue
        y, x = np.where(panoptic == label)
        if len(y) < _SMALL_AREA_PX:
            targets['semantic_weight'][y, x] = _SMALL_WEIGHT
        center_y, center_x = int(np.round(np.mean(y))), int(np.round(np.mean(x)))
        _draw_center(targets['center'], center_y, center_x)
        targets['offset'][y, x, 0] = center_y - y
        targets['offset'][y, x, 1] = center_x - x
    return targets


def _start_targets(size):
    return {
        'semantic': np.full(size, IGNORE_LABEL, np.int32),
        'center': np.zeros(size, np.float32),
        'offset': np.zeros((*size, 2), np.float32),
        'semantic_weight': np.ones(size, np.float32),
        'center_weight': np.zeros(size, np.float32),
        'offset_weight': np.zeros(size, np.float32),
    }


_REACH = 3 * _SIGMA_PX + 1
_AXIS = np.arange(6 * _SIGMA_PX + 3, dtype=np.float32) - _REACH
_PATCH = np.exp(-(_AXIS[:, None] ** 2 + _AXIS[None] ** 2) / (2 * _SIGMA_PX**2)).astype(np.float32)


def _draw_center(heat, y, x):
    """Takes the maximum of the heat and a Gaussian at (y, x), clipped at the borders."""
    low = y - _REACH, x - _REACH
    inside = tuple(
        slice(max(0, n), min(n + len(_PATCH), limit))
        for n, limit in zip(low, heat.shape, strict=True)
    )
    patch = _PATCH[
        tuple(slice(at.start - n, at.stop - n) for at, n in zip(inside, low, strict=True))
    ]
    heat[inside] = np.maximum(heat[inside], patch)


class _Reader:
    """Endless batches; within the context of `start` the look-ahead is filled."""

    def __init__(self, dataset: Dataset, arguments: Mapping[str, Any]):
        self._dataset, self._arguments = dataset, arguments
        self._batches: Iterator[Any] | None = None

    @contextlib.contextmanager
    def start(self):
        num_workers = self._arguments['num_workers']
        self._batches = self._load_in_workers(num_workers) if num_workers else self._load_here()
        try:
            for _ in range(1 + _NUM_BUFFERED * num_workers):
                next(self._batches)
            yield
        finally:
            self._batches.close()

    def read(self):
        return next(self._batches)

    def _list_indices(self):
        """Yields the indices of a batch, endlessly."""
        rng = np.random.default_rng(0)
        while True:
            order = np.resize(
                rng.permutation(len(self._dataset)),
                max(len(self._dataset), self._arguments['batch']),
            )
            for start in range(
                0, len(order) - self._arguments['batch'] + 1, self._arguments['batch']
            ):
                yield order[start : start + self._arguments['batch']].tolist()

    def _load_here(self):
        for indices in self._list_indices():
            samples = [self._dataset[i] for i in indices]
            yield {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}

    def _load_in_workers(self, num_workers):
        from torch.utils.data import DataLoader

        loader = DataLoader(
            self._dataset,
            batch_sampler=self._list_indices(),
            num_workers=num_workers,
            prefetch_factor=_NUM_BUFFERED,
        )
        yield from loader
