"""Copies the small golden cases of the reference data that a public clone tests with.

    python tests/goldens/copy_goldens.py FOLDER

FOLDER is `golden` of the reference data: synthetic inputs with results of the original programs.

- postprocess/: semantic map, heatmap and offsets, and the panoptic maps of a float64 statement of
  the paper's rules, of bowenc0221's and detectron2's post-processing, and of DeepLab2's TensorFlow
  merge and custom op.
- targets/: a panoptic map, and the targets of DeepLab2, bowenc0221 and detectron2.
- losses/: logits, labels, weights and predictions, and the losses of the three.

Larger cases stay in the reference data; their tests are skipped without it.
"""

import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).parent
MAX_BYTES = {'postprocess': 8_000, 'targets': 60_000, 'losses': 60_000}


def main() -> None:
    """Copies what is small enough."""
    for group, limit in MAX_BYTES.items():
        (HERE / group).mkdir(exist_ok=True)
        for path in sorted((pathlib.Path(sys.argv[1]) / group).glob('*.npz')):
            if path.stat().st_size <= limit:
                shutil.copyfile(path, HERE / group / path.name)


if __name__ == '__main__':
    main()
