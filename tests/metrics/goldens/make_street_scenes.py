"""Makes street_scenes.npz: Cityscapes-format cases and how the original programs score them.

    pip install cityscapesscripts==2.3.0 pycocotools==2.0.11 panopticapi-lite==0.2.0
    python tests/metrics/goldens/make_street_scenes.py

Labels are rectangles of things, groups and stuff with holes of void; predictions are the labels
moved, split, lost, renamed, or invented, with few different scores so that some tie. Sizes are
multiples of five, so that many IoU are exactly 0.5 and many areas exactly a limit.
"""

import contextlib
import io
import json
import pathlib
import tempfile

import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_level
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as panoptic_level
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from panopticapi import evaluation as panopticapi
from PIL import Image
from pycocotools import coco, cocoeval, mask

# cityscapesscripts 2.3 calls np.isin by the name that NumPy 2.4 removed, and cannot write the
# counts of NumPy 2.4 to its caches.
np.in1d = np.isin
instance_level.writeDict2JSON = lambda *_: None

SIZE = (150, 200)
NUM_IMAGES = 10
THINGS, STUFF, VOID = (24, 25, 26, 33), (7, 11, 23), (0, 4)


def paint(canvas, rng, value, lengths):
    """Fills a rectangle of multiples of five pixels."""
    height, width = rng.choice(lengths, 2)
    top, left = (5 * rng.integers(0, max(n // 5 - 6, 1)) for n in canvas.shape)
    canvas[top : top + height, left : left + width] = value


def make_label(rng):
    """Makes official ids i32[H, W]: id for stuff, void and groups, id * 1000 + n for objects."""
    label = np.full(SIZE, rng.choice(STUFF), np.int32)
    for _ in range(4):
        paint(label, rng, rng.choice(STUFF + VOID), (30, 60, 90))
    for n, lengths in enumerate([(100, 150)] * 2 + [(5, 10, 15, 20, 40)] * rng.integers(5, 25)):
        paint(label, rng, 1000 * rng.choice(THINGS) + n, lengths)
    for _ in range(4):
        paint(label, rng, rng.choice(THINGS + VOID), (5, 10, 20, 40))
    return label


def make_prediction(label, rng):
    """Makes i32[H, W], id * 1000 + n or 0 (void), and f64 scores of the segments, ascending."""
    prediction = np.where(np.isin(label, STUFF), label * 1000, 0)
    number = 100
    for value in np.unique(label[label >= 24]):
        mask_ = label == value
        semantic = value // 1000 if value >= 1000 else value
        action = rng.choice(['keep', 'move', 'grow', 'split', 'lose', 'rename'])
        if action == 'lose':
            continue
        if action == 'rename':
            semantic = rng.choice(THINGS)
        if action == 'move':
            mask_ = np.roll(mask_, (5, 0), (0, 1))
        if action == 'grow':
            mask_ = mask_ | np.roll(mask_, 10, 1)
        number += 2
        prediction[mask_] = semantic * 1000 + number
        if action == 'split':
            columns = np.flatnonzero(mask_.any(0))
            mask_[:, : columns[0] + len(columns) // 2] = False
            prediction[mask_] = semantic * 1000 + number + 1
    for n in range(6):
        paint(prediction, rng, rng.choice(THINGS) * 1000 + n, (5, 10, 20))
    return prediction, rng.choice([0.25, 0.5, 0.5, 0.75, 1.0], len(np.unique(prediction)))


def write_cityscapes(folder, labels, predictions, scores):
    """Writes what the instance-level script reads; returns the lists of its files."""
    city = folder / 'gtFine' / 'val' / 'city'
    city.mkdir(parents=True)
    label_files, prediction_files = [], []
    for i, (label, prediction, score) in enumerate(zip(labels, predictions, scores, strict=True)):
        name = f'city_{i:06d}_000019'
        label_files.append(str(city / f'{name}_gtFine_instanceIds.png'))
        Image.fromarray(label.astype(np.uint16)).save(label_files[-1])
        lines = []
        for value, s in zip(np.unique(prediction), score, strict=True):
            if value // 1000 in THINGS:
                pixels = (prediction == value).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}_{value}.png')
                lines.append(f'{i}_{value}.png {value // 1000} {s}')
        prediction_files.append(str(folder / f'{name}.txt'))
        pathlib.Path(prediction_files[-1]).write_text('\n'.join(lines) + '\n')
    return label_files, prediction_files


def score_instances(folder, label_files, prediction_files):
    """Returns the AP of cityscapesscripts, f64[4, 10] by THINGS and threshold, and its averages."""
    args = instance_level.args
    args.cityscapesPath = args.predictionPath = str(folder)
    args.gtInstancesFile = str(folder / 'gtInstances.json')
    args.quiet, args.JSONOutput = True, False
    result = instance_level.evaluateImgLists(prediction_files, label_files, args)
    rows = [result['instLabels'].index(name) for name in ('person', 'rider', 'car', 'bicycle')]
    return np.array(result['resultApMatrix'])[0, rows], result['averages']


def write_panoptic(folder, predictions):
    """Writes labels by the official converter, and predictions; returns the files of both."""
    convert2panoptic(str(folder / 'gtFine'), str(folder), False, ['val'])
    (folder / 'predictions').mkdir()
    annotations = []
    for i, prediction in enumerate(predictions):
        name = f'city_{i:06d}_000019'
        rgb = np.stack([prediction & 255, prediction >> 8 & 255, prediction >> 16], -1)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / 'predictions' / f'{name}.png')
        segments = [
            {'id': int(v), 'category_id': int(v // 1000)} for v in np.unique(prediction) if v
        ]
        annotation = {'image_id': name, 'file_name': f'{name}.png', 'segments_info': segments}
        annotations.append(annotation)
    (folder / 'predictions.json').write_text(json.dumps({'annotations': annotations}))
    labels = folder / 'cityscapes_panoptic_val'
    return (
        f'{labels}.json',
        str(folder / 'predictions.json'),
        str(labels),
        str(folder / 'predictions'),
    )


def score_coco(labels, predictions, scores):
    """Returns average precision and recall of pycocotools, f64[12]; groups are crowds."""

    def encode(pixels):
        return mask.encode(np.asfortranarray(pixels.astype(np.uint8)))

    things, detections = [], []
    for i, (label, prediction, score) in enumerate(zip(labels, predictions, scores, strict=True)):
        for value in np.unique(label[np.isin(label, THINGS) | (label >= 1000)]):
            pixels = label == value
            is_crowd = int(value < 1000)
            things.append(
                {
                    'id': len(things) + 1,
                    'image_id': i,
                    'category_id': int(value if is_crowd else value // 1000),
                    'iscrowd': is_crowd,
                    'area': int(pixels.sum()),
                    'segmentation': encode(pixels),
                }
            )
        values, first = np.unique(prediction, return_index=True)
        # Equal scores rank in this order, which is that of DeepLab2.
        for n in np.argsort(first):
            value, s = values[n], score[n]
            if value // 1000 in THINGS:
                pixels = encode(prediction == value)
                detections.append(
                    {
                        'image_id': i,
                        'category_id': int(value // 1000),
                        'score': s,
                        'segmentation': pixels,
                    }
                )
    truth = coco.COCO()
    truth.dataset = {
        'images': [{'id': i, 'height': SIZE[0], 'width': SIZE[1]} for i in range(len(labels))],
        'categories': [{'id': c, 'name': str(c)} for c in THINGS],
        'annotations': things,
    }
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(detections), 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def make_cases(seed):
    """Returns the arrays of street_scenes.npz."""
    rng = np.random.default_rng(seed)
    labels = [make_label(rng) for _ in range(NUM_IMAGES)]
    predictions, scores = zip(*(make_prediction(label, rng) for label in labels), strict=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        folder = pathlib.Path(folder)
        label_files, prediction_files = write_cityscapes(folder, labels, predictions, scores)
        class_ap, averages = score_instances(folder, label_files, prediction_files)
        gt_json, pred_json, gt_dir, pred_dir = write_panoptic(folder, predictions)
        panoptic = panoptic_level.evaluatePanoptic(
            gt_json, gt_dir, pred_json, pred_dir, str(folder / 'results.json')
        )
        assert panoptic == panopticapi.pq_compute(gt_json, pred_json, gt_dir, pred_dir)
        coco_stats = score_coco(labels, predictions, scores)
    classes = sorted(panoptic['per_class'])
    return {
        'labels': np.stack(labels),
        'predictions': np.stack(predictions),
        'scores': np.concatenate(scores),
        'cityscapes_ap': class_ap,
        'cityscapes_average_ap': np.array([averages['allAp'], averages['allAp50%']]),
        'panoptic_ids': np.array(classes),
        'panoptic': np.array(
            [[panoptic['per_class'][c][k] for k in ('pq', 'sq', 'rq')] for c in classes]
        ),
        'panoptic_averages': np.array(
            [[panoptic[g][k] for k in ('pq', 'sq', 'rq', 'n')] for g in ('All', 'Things', 'Stuff')]
        ),
        'coco_stats': coco_stats,
    }


if __name__ == '__main__':
    np.savez_compressed(pathlib.Path(__file__).with_name('street_scenes.npz'), **make_cases(0))
