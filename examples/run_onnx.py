"""Runs an export of `pdl_jax export --format=onnx`; needs onnxruntime, NumPy and Pillow.

python run_onnx.py FOLDER photo.jpg --out=panoptic.png
"""

import argparse
import json
import pathlib

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('folder', type=pathlib.Path)
parser.add_argument('image')
parser.add_argument('--out', default='panoptic.png')
flags = parser.parse_args()

about = json.loads((flags.folder / 'description.json').read_text())
session = onnxruntime.InferenceSession(flags.folder / 'model.onnx')
size = about['width_px'], about['height_px']
image = np.asarray(Image.open(flags.image).convert('RGB').resize(size))
images = np.stack([image] * (about['batch_size'] or 1))
results = dict(zip(about['outputs'], session.run(about['outputs'], {'image': images}), strict=True))

found = {name: np.asarray(value[0]) for name, value in results.items()}
for row in np.flatnonzero(found['segment_valid']):
    name = about['classes'][str(found['segment_class'][row])]['name']
    print(f'{name}: score {found["segment_score"][row]:.2f}, {found["segment_area"][row]} pixels')
colors = np.random.default_rng(0).integers(64, 256, (4096, 3), np.uint8)
Image.fromarray(colors[found['panoptic'] % 4096]).save(flags.out)
