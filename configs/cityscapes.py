"""Cityscapes panoptic with ResNet-50 at output stride 32: 19 classes, 1025x2049.

The panoptic PNGs and JSON are those of cityscapesscripts' csCreatePanopticImgs.

    python -m pdl_jax.data.prepare --format=coco_panoptic --images=leftImg8bit/train \
        --panoptic=gtFine/cityscapes_panoptic_train --json=gtFine/cityscapes_panoptic_train.json \
        --out=data/cityscapes --split=train
    (the same with val)
    python -m pdl_jax.main --config=configs/cityscapes.py --workdir=runs/cityscapes

DeepLab2 reports 59.8 PQ and 76.0 mIoU on val for this network (60k steps, started from ImageNet weights, which are not part
of this file); it has not been run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab2's resnet50_os32 recipe for Cityscapes, which is what the defaults are."""
    config = common.get_config()
    config.unlock()
    config.data.path = 'data/cityscapes'
    config.data.num_workers = 8
    config.train.batch_size = 8
    config.evaluate.batch_size = 4
    return config.lock()
