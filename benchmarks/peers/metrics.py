"""Panoptic quality by panopticapi's algorithm: dicts of segments, overlaps from sorted pixels."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.files import describe_segments
from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR, list_thing_classes
from benchmarks.program import Program, Setup

_OFFSET = 256**3


def prepare(setup: Setup) -> Program:
    """Makes a program over the label maps of an image, or over files, in one process."""
    num_classes = setup.arguments['num_classes']
    if 'gt_json' in setup.files:

        def run():
            return count_files(setup.files, num_classes)

        run()
    else:
        maps = []
        for name in ('label', 'prediction'):
            panoptic = setup.load(name)
            ids = np.where(panoptic // LABEL_DIVISOR == IGNORE_LABEL, 0, panoptic + 1)
            maps += [ids, describe_segments(ids)]

        def run():
            counts = np.zeros((num_classes, 4))
            count_image(counts, *maps)
            return counts

    return Program(
        run,
        num_items=setup.arguments.get('num_images', 1),
        get_outputs=lambda: {'quality': average(run(), list_thing_classes(num_classes))},
    )


def count_files(files: Mapping[str, str], num_classes: int) -> np.ndarray:
    """Counts over all images; returns f64[C, 4], see `count_image`."""
    counts = np.zeros((num_classes, 4))
    labels, predictions = (
        json.loads(pathlib.Path(files[f'{side}_json']).read_text()) for side in ('gt', 'pred')
    )
    predicted = {annotation['image_id']: annotation for annotation in predictions['annotations']}
    for label in labels['annotations']:
        prediction = predicted[label['image_id']]
        arguments = []
        for annotation, folder in ((label, files['gt_folder']), (prediction, files['pred_folder'])):
            pixels = np.array(Image.open(pathlib.Path(folder) / annotation['file_name']), np.uint32)
            ids = pixels[:, :, 0] + 256 * pixels[:, :, 1] + 256 * 256 * pixels[:, :, 2]
            arguments += [ids, annotation['segments_info']]
        count_image(counts, *arguments)
    return counts


def count_image(
    counts: np.ndarray,
    label: np.ndarray,
    label_infos: Sequence[Mapping[str, Any]],
    prediction: np.ndarray,
    prediction_infos: Sequence[Mapping[str, Any]],
) -> None:
    """Adds an image to `counts`.

    The columns of f64[C, 4] are true positives, false positives, false negatives and summed IoU.
    """
    labelled = {info['id']: dict(info) for info in label_infos}
    predicted = {info['id']: dict(info) for info in prediction_infos}
    for segment, area in zip(*np.unique(prediction, return_counts=True), strict=True):
        if segment:
            predicted[int(segment)]['area'] = int(area)
    joined = label.astype(np.uint64) * _OFFSET + prediction.astype(np.uint64)
    overlaps = {}
    for pair, area in zip(*np.unique(joined, return_counts=True), strict=True):
        overlaps[int(pair) // _OFFSET, int(pair) % _OFFSET] = int(area)

    matched_labels, matched_predictions = set(), set()
    for (i, j), area in overlaps.items():
        if i not in labelled or j not in predicted or labelled[i]['iscrowd']:
            continue
        if labelled[i]['category_id'] != predicted[j]['category_id']:
            continue
        union = predicted[j]['area'] + labelled[i]['area'] - area - overlaps.get((0, j), 0)
        if area / union > 0.5:
            counts[labelled[i]['category_id'] - 1, [0, 3]] += 1, area / union
            matched_labels.add(i)
            matched_predictions.add(j)
    crowds = {}
    for i, info in labelled.items():
        if i in matched_labels:
            continue
        if info['iscrowd']:
            crowds[info['category_id']] = i
        else:
            counts[info['category_id'] - 1, 2] += 1
    for j, info in predicted.items():
        if j in matched_predictions:
            continue
        excused = overlaps.get((0, j), 0) + overlaps.get((crowds.get(info['category_id']), j), 0)
        if excused / info['area'] <= 0.5:
            counts[info['category_id'] - 1, 1] += 1


def average(counts: np.ndarray, things: Sequence[int]) -> np.ndarray:
    """Averages panoptic quality over the classes that occur; returns f64[3]: all, things, stuff."""
    tp, fp, fn, iou = counts.T
    number = tp + (fp + fn) / 2
    quality = np.where(number > 0, iou / np.maximum(number, 0.5), np.nan)
    is_thing = np.isin(np.arange(len(counts)), things)
    return np.array(
        [np.nanmean(values) for values in (quality, quality[is_thing], quality[~is_thing])]
    )
