"""Cityscapes panoptic with ResNet-50 at output stride 32: 19 classes, 1025x2049.

    pdl_jax prepare --format=cityscapes --input=CITYSCAPES --split=train --out=data/cityscapes
    pdl_jax prepare --format=cityscapes --input=CITYSCAPES --split=val --out=data/cityscapes
    python -m pdl_jax.main --config=configs/cityscapes.py --workdir=runs/cityscapes

Aims at 59.8 PQ and 76.0 mIoU on val (DeepLab2's model zoo, resnet50_os32: 60k steps of 8, from
ImageNet weights, which are not part of this file). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab2's resnet50_os32 recipe for Cityscapes, which is what the defaults are."""
    config = common.get_config()
    common.use_cityscapes(config)
    config.train.batch_size = 8
    return config
