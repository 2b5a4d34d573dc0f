"""Cases for several tests of the metrics: stored maps, DeepLab2's pictures, written files."""

import collections
import functools
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pdl_jax.data.images import encode_ids
from pdl_jax.typing import LabelFormat

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
# Size that holds all reference cases, and rows for their segments.
REFERENCE_SIZE = (133, 200)
REFERENCE_SEGMENTS = 304
AP_NAMES = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large')
AR_NAMES = ('ar1', 'ar10', 'ar100', 'ar_small', 'ar_medium', 'ar_large')

_COLORS = {
    (0, 0, 0): 0,
    (0, 0, 255): 1,
    (255, 0, 0): 2,
    (0, 255, 0): 3,
    (255, 0, 255): 4,
    (0, 255, 255): 5,
    (255, 255, 0): 6,
}
_CLASS_OF_GREY = {
    'bird': {92: 5, 176: 3, 255: 4},
    'cat': {0: 0, 255: 6},
    'team': {0: 0, 198: 2, **dict.fromkeys((47, 97, 133, 150, 174, 215, 244, 255), 1)},
}


def coco_stats(result):
    """Returns the twelve numbers in the order of pycocotools, -1 where nothing is averaged."""
    return [-1.0 if result[name] is None else result[name] for name in AP_NAMES + AR_NAMES]


def read_deeplab2_maps(shared_dir, name):
    """Reads label and prediction of a picture of DeepLab2: i32[H, W] = class * 256 + instance."""
    folder = shared_dir / 'data' / 'deeplab2_testdata' / 'evaluation' / 'testdata'

    def read(suffix, mode):
        with Image.open(folder / f'{name}_{suffix}.png') as image:
            return np.asarray(image.convert(mode)).astype(np.int32)

    grey = read('gt_instance' if name == 'team' else 'gt', 'L')
    semantic = np.zeros_like(grey)
    for value, semantic_class in _CLASS_OF_GREY[name].items():
        semantic[grey == value] = semantic_class
    colors = read('pred_class', 'RGB')
    predicted = np.zeros_like(grey)
    for color, semantic_class in _COLORS.items():
        predicted[(colors == color).all(-1)] = semantic_class
    return semantic * 256 + grey, predicted * 256 + read('pred_instance', 'L')


class ReferenceCases(NamedTuple):
    """Pairs of label map and prediction, and the numbers that the original programs give for them.

    Attributes:
      label_format: encoding of the maps.
      categories: category id of each class in files.
      cases: by name 'gt', 'pred' i32[H, W], 'score_ids' and 'scores' of predicted labels.
      expected: 'pq', 'ap', 'pc' and 'miou', see goldens/pack_reference_cases.py; class indices are
        text.
      confusion: i32[C, C + 1], pixels by labelled and predicted class, void last.
    """

    label_format: LabelFormat
    categories: tuple[int, ...]
    cases: dict[str, dict[str, np.ndarray]]
    expected: dict[str, Any]
    confusion: np.ndarray


@functools.cache
def read_reference_cases(name):
    """Reads the stored cases 'coco' or 'voc'."""
    with np.load(GOLDENS / f'reference_cases_{name}.npz') as file:
        arrays = {key: file[key] for key in file}
    meta, names, expected = (
        json.loads(arrays[key].tobytes()) for key in ('meta', 'names', 'expected')
    )
    label_format = LabelFormat(
        meta['num_classes'], tuple(meta['thing_ids']), meta['ignore_label'], meta['label_divisor']
    )
    pixels = np.cumsum(arrays['sizes'].prod(-1))[:-1]
    rows = np.cumsum(arrays['num_scores'])[:-1]
    columns = zip(
        arrays['sizes'],
        np.split(arrays['labels'], pixels),
        np.split(arrays['predictions'], pixels),
        np.split(arrays['score_ids'], rows),
        np.split(arrays['scores'], rows),
        strict=True,
    )
    cases = {
        case: {
            'gt': label.reshape(size),
            'pred': prediction.reshape(size),
            'score_ids': score_ids,
            'scores': scores,
        }
        for case, (size, label, prediction, score_ids, scores) in zip(names, columns, strict=True)
    }
    categories = tuple(meta['official'][str(c)] for c in range(label_format.num_classes))
    return ReferenceCases(label_format, categories, cases, expected, arrays['confusion'])


def write_reference_cases(folder, reference):
    """Writes reference cases as files, see `write_files`; predictions without a score get 0."""
    label_format = reference.label_format
    divisor = label_format.label_divisor
    category = np.full(label_format.num_semantic_values, 255)
    category[: label_format.num_classes] = reference.categories

    def number(panoptic):
        return category[panoptic // divisor] * 1000 + panoptic % divisor

    cases = reference.cases.values()
    scores = [
        collections.defaultdict(
            float, zip(number(case['score_ids']).tolist(), case['scores'].tolist(), strict=True)
        )
        for case in cases
    ]
    return write_files(
        folder,
        [number(case['gt']) for case in cases],
        [number(case['pred']) for case in cases],
        things=[reference.categories[c] for c in label_format.thing_classes],
        stuff=[reference.categories[c] for c in label_format.stuff_classes],
        scores=scores,
    )


def pad(array, size, fill):
    """Pads a map [H, W] at the bottom and on the right: [1, *size]."""
    canvas = np.full((1, *size), fill, np.int32)
    canvas[0, : array.shape[0], : array.shape[1]] = array
    return canvas


def make_segment_table(labels, scores, rows):
    """Makes the table of scores of the post-processing, 'label' and 'score' [1, rows]."""
    table = {'label': np.full((1, rows), -1, np.int32), 'score': np.zeros((1, rows), np.float32)}
    table['label'][0, : len(labels)] = labels
    table['score'][0, : len(labels)] = scores
    return table


def write_files(folder, labels, predictions, *, things, stuff, scores=None):
    """Writes maps in the COCO panoptic format; a segment's id is its label + 1.

    Segments are listed by their first pixels, so that equal scores rank as on the device.

    Args:
      folder: directory of the files.
      labels: i32[N, H, W] = category id * 1000 + instance; instance 0 of a thing is a crowd, other
        categories than those listed are void.
      predictions: i32[N, H, W] as `labels`, without crowds.
      things, stuff: category ids.
      scores: a dict from predicted label to score per image; None to state none.

    Returns:
      The arguments of `evaluate_files` that name the files.
    """
    categories = [
        {'id': int(c), 'name': f'category {c}', 'isthing': int(c in things)}
        for c in (*things, *stuff)
    ]
    files = {'images': [], 'categories': categories}
    for side, maps in (('gt', labels), ('pred', predictions)):
        (folder / side).mkdir(parents=True)
        annotations = []
        for i, panoptic in enumerate(maps):
            is_void = ~np.isin(panoptic // 1000, (*things, *stuff))
            ids = np.where(is_void, 0, panoptic + 1)
            (folder / side / f'{i:03d}.png').write_bytes(encode_ids(ids))
            segments = []
            present, first, areas = np.unique(panoptic, return_index=True, return_counts=True)
            for n in np.argsort(first):
                label, area = present[n], areas[n]
                if is_void.ravel()[first[n]]:
                    continue
                category = int(label // 1000)
                segment = {'id': int(label) + 1, 'category_id': category, 'area': int(area)}
                if side == 'gt':
                    segment['iscrowd'] = int(category in things and label % 1000 == 0)
                elif scores is not None:
                    segment['score'] = float(scores[i][int(label)])
                segments.append(segment)
            annotation = {'image_id': i, 'file_name': f'{i:03d}.png', 'segments_info': segments}
            annotations.append(annotation)
        (folder / f'{side}.json').write_text(json.dumps({**files, 'annotations': annotations}))
    return locate(folder)


def locate(folder):
    """Returns the arguments of `evaluate_files` for the files that `write_files` wrote."""
    return {
        'gt_json': folder / 'gt.json',
        'gt_folder': folder / 'gt',
        'pred_json': folder / 'pred.json',
        'pred_folder': folder / 'pred',
    }


def read_street_scenes():
    """Reads the stored cases of goldens/make_street_scenes.py; see `prepare_street_scenes`."""
    with np.load(GOLDENS / 'street_scenes.npz') as file:
        return prepare_street_scenes({key: file[key] for key in file})


def prepare_street_scenes(cases):
    """Converts official instance ids to category id * 1000 + instance.

    Returns:
      The arrays; 'labels' with instances from 1 and crowds as instance 0; 'scores' as a list of
      dicts from predicted label to score, one per image.
    """
    # The official ids count instances from 0.
    labels = np.where(cases['labels'] < 1000, cases['labels'] * 1000, cases['labels'] + 1)
    scores, start = [], 0
    for prediction in cases['predictions']:
        present = np.unique(prediction).tolist()
        row = cases['scores'][start : start + len(present)].tolist()
        scores.append(dict(zip(present, row, strict=True)))
        start += len(present)
    return {**cases, 'labels': labels, 'scores': scores}


def count_by_masks(label, prediction, label_format):
    """Counts panoptic quality by one mask per segment: a Counter of (name, class)."""
    divisor, ignore = label_format.label_divisor, label_format.ignore_label
    counts = collections.Counter()
    void = label // divisor == ignore
    predicted = {p: prediction == p for p in np.unique(prediction) if p // divisor != ignore}
    labelled = {g: label == g for g in np.unique(label) if g // divisor != ignore}
    crowd_labels = [c * divisor for c in label_format.thing_classes]
    crowds = {g: mask for g, mask in labelled.items() if g in crowd_labels}
    matched = set()
    for g in labelled.keys() - crowds.keys():
        for p, mask in predicted.items():
            shared = int((labelled[g] & mask).sum())
            union = int((labelled[g] | mask).sum()) - int((mask & void).sum())
            if g // divisor == p // divisor and 2 * shared > union:
                counts['tp', p // divisor] += 1
                counts['iou', p // divisor] += shared / union
                matched |= {('label', g), ('prediction', p)}
        if ('label', g) not in matched:
            counts['fn', g // divisor] += 1
    for p, mask in predicted.items():
        excuse = void | crowds.get(p // divisor * divisor, np.zeros_like(mask))
        if ('prediction', p) not in matched and 2 * (mask & excuse).sum() <= mask.sum():
            counts['fp', p // divisor] += 1
    return counts
