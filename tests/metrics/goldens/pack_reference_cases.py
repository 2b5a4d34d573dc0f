"""Packs reference_cases_{coco,voc}.npz from folders of reference data.

    python tests/metrics/goldens/pack_reference_cases.py FOLDER

FOLDER has a folder per set with `cases/*.npz`, 35 pairs of synthetic label maps and predictions,
and expected_{pq,ap,pc,miou}.json: the numbers of panopticapi (PQ), pycocotools (AP), the formula
of DeeperLab in tensorflow/models (PC) and the definition of cityscapesscripts (mIoU).
test_originals.py scores the packed cases with panopticapi again if it is installed.
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
SETS = {'coco': 'coco_d1000_ign255', 'voc': 'voc_d1000_ign255'}


def encode_json(value):
    """Encodes a value as the bytes of its JSON text, u8[N]."""
    return np.frombuffer(json.dumps(value, separators=(',', ':')).encode(), np.uint8)


def pack(folder):
    """Returns the arrays of a file; `panoptic_cases.read_reference_cases` reads them."""
    paths = sorted((folder / 'cases').glob('*.npz'))
    cases = []
    for path in paths:
        with np.load(path) as file:
            cases.append({key: file[key] for key in file})
    expected = {
        name: json.loads((folder / f'expected_{name}.json').read_text())
        for name in ('pq', 'ap', 'pc', 'miou')
    }
    miou = expected['miou']
    return {
        'meta': encode_json(json.loads((folder / 'meta.json').read_text())),
        'names': encode_json([path.stem for path in paths]),
        'sizes': np.array([case['gt'].shape for case in cases], np.int32),
        'labels': np.concatenate([case['gt'].ravel() for case in cases]),
        'predictions': np.concatenate([case['pred'].ravel() for case in cases]),
        'num_scores': np.array([len(case['scores']) for case in cases], np.int32),
        'score_ids': np.concatenate([case['score_ids'] for case in cases]),
        'scores': np.concatenate([case['scores'] for case in cases]),
        'confusion': np.array(miou['confusion_rows_gt_cols_pred_lastcol_void'], np.int32),
        'expected': encode_json(
            {
                'pq': expected['pq']['panopticapi'],
                'ap': expected['ap']['coco'],
                'pc': expected['pc'],
                'miou': miou['void_as_fn'],
            }
        ),
    }


if __name__ == '__main__':
    for name, folder_name in SETS.items():
        arrays = pack(pathlib.Path(sys.argv[1]) / folder_name)
        np.savez_compressed(HERE / f'reference_cases_{name}.npz', **arrays)
