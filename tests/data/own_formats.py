"""Writes images with numbered objects in the formats that annotation tools write."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

CLASS = 'nucleus'


class Example(NamedTuple):
    """An image file, and its objects 1 .. N in i32[H, W], 0 outside."""

    path: pathlib.Path
    objects: np.ndarray


def trace_outline(mask: np.ndarray) -> np.ndarray:
    """Returns the outline of bool[H, W] along the edges of its pixels, f64[N, 2] of (x, y).

    Loops around parts and holes are joined by lines there and back, which enclose nothing.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    next_points: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in np.argwhere(np.diff(padded, axis=0)).tolist():
        edge = [(x - 1, y), (x, y)] if padded[y + 1, x] else [(x, y), (x - 1, y)]
        next_points.setdefault(edge[0], []).append(edge[1])
    for y, x in np.argwhere(np.diff(padded, axis=1)).tolist():
        edge = [(x, y), (x, y - 1)] if padded[y, x + 1] else [(x, y - 1), (x, y)]
        next_points.setdefault(edge[0], []).append(edge[1])
    points: list[tuple[int, int]] = []
    first = next(iter(next_points))
    while next_points:
        start = point = next(iter(next_points))
        points.append(start)
        while point in next_points:
            following = next_points[point]
            target = following.pop()
            if not following:
                del next_points[point]
            points.append(target)
            point = target
        points.append(first)
    return np.array(points, np.float64)


def list_objects(objects: np.ndarray) -> list[np.ndarray]:
    return [objects == number for number in range(1, int(objects.max()) + 1)]


def write_coco(
    folder: pathlib.Path, examples: list[Example], encode: Callable[[np.ndarray], object]
) -> pathlib.Path:
    """Writes instances.json; `encode` makes the segmentation of a mask."""
    images, annotations = [], []
    for i, example in enumerate(examples):
        height, width = example.objects.shape
        name = f'nested/{example.path.name}'
        images.append({'id': i, 'file_name': name, 'height': height, 'width': width})
        for mask in list_objects(example.objects):
            annotations.append({
                'id': len(annotations) + 1, 'image_id': i, 'category_id': 3,
                'segmentation': encode(mask),
            })  # fmt: skip
    path = folder / 'instances.json'
    categories = [{'id': 3, 'name': CLASS, 'supercategory': 'cell'}]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    path.write_text(json.dumps(content))
    return path


def encode_polygon(mask: np.ndarray) -> list[list[float]]:
    return [trace_outline(mask).ravel().tolist()]


def encode_string(mask: np.ndarray) -> dict[str, object]:
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': [int(s) for s in runs['size']], 'counts': runs['counts'].decode()}


def encode_counts(mask: np.ndarray) -> dict[str, object]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges).tolist()
    return {'size': list(mask.shape), 'counts': counts}


def write_labelme(folder: pathlib.Path, examples: list[Example]) -> None:
    for example in examples:
        height, width = example.objects.shape
        shapes = [
            {'label': CLASS, 'points': trace_outline(mask).tolist(), 'shape_type': 'polygon'}
            for mask in list_objects(example.objects)
        ]
        content = {
            'version': '5.5.0', 'shapes': shapes, 'imagePath': f'..\\images\\{example.path.name}',
            'imageData': None, 'imageHeight': height, 'imageWidth': width,
        }  # fmt: skip
        (folder / f'{example.path.stem}.json').write_text(json.dumps(content))


def write_yolo(folder: pathlib.Path, examples: list[Example]) -> None:
    (folder / 'data.yaml').write_text(f'nc: 1\nnames:\n  0: {CLASS}\n')
    (folder / 'labels').mkdir()
    for example in examples:
        size = example.objects.shape[::-1]
        lines = []
        for mask in list_objects(example.objects):
            numbers = (trace_outline(mask) / size).ravel()
            lines.append(' '.join(['0', *(f'{value:.6f}' for value in numbers)]))
        if lines:
            (folder / 'labels' / f'{example.path.stem}.txt').write_text('\n'.join(lines))


def write_map(path: pathlib.Path, objects: np.ndarray) -> None:
    """Writes numbers as the ending of the path says."""
    if path.suffix == '.png':
        Image.fromarray(objects.astype(np.uint16)).save(path)
    elif path.suffix == '.npy':
        np.save(path, objects)
    else:
        tifffile.imwrite(path, objects.astype(np.uint32), compression='zlib')


def write_object_files(folder: pathlib.Path, examples: list[Example]) -> None:
    for example in examples:
        for k, mask in enumerate(list_objects(example.objects)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(
                folder / f'{example.path.stem}_{k}.png'
            )


def write_bowl(folder: pathlib.Path, examples: list[Example]) -> None:
    """Writes IMAGE/images and IMAGE/masks."""
    for example in examples:
        inner = folder / example.path.stem
        (inner / 'images').mkdir(parents=True)
        (inner / 'masks').mkdir()
        Image.open(example.path).convert('RGBA').save(inner / 'images' / f'{inner.name}.png')
        for k, mask in enumerate(list_objects(example.objects)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(inner / 'masks' / f'{k:02}.png')


def write_voc(folder: pathlib.Path, examples: list[Example]) -> None:
    """Writes maps with a palette of 8 bits, or in colours where there are too many objects."""
    for name in ('SegmentationClass', 'SegmentationObject'):
        (folder / name).mkdir()
    (folder / 'labelmap.txt').write_text(
        f'# label:color_rgb:parts:actions\nbackground:0,0,0::\n{CLASS}:250,50,83::\n'
    )
    for example in examples:
        objects = example.objects
        color = np.where(objects[..., None] > 0, (250, 50, 83), 0).astype(np.uint8)
        Image.fromarray(color).save(folder / 'SegmentationClass' / f'{example.path.stem}.png')
        codes = objects * 7919
        colors = np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colors).save(folder / 'SegmentationObject' / f'{example.path.stem}.png')


def measure_ious(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns f64[N], the IoU of each object with the one that shares most of its pixels."""
    ious = []
    for mask in list_objects(expected):
        numbers, counts = np.unique(found[mask], return_counts=True)
        best = numbers[counts.argmax()]
        union = (mask | (found == best)).sum() if best else mask.sum()
        ious.append((counts.max() if best else 0) / union)
    return np.array(ious)
