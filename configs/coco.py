"""COCO panoptic with ResNet-50 at output stride 32: 133 classes and void, 641x641.

    pdl_jax prepare --format=coco_panoptic --images=train2017 --panoptic=panoptic_train2017 \
        --json=panoptic_train2017.json --out=data/coco --split=train
    pdl_jax prepare --format=coco_panoptic --images=val2017 --panoptic=panoptic_val2017 \
        --json=panoptic_val2017.json --out=data/coco --split=val
    python -m pdl_jax.main --config=configs/coco.py --workdir=runs/coco

Aims at 34.1 PQ on val (DeepLab2's model zoo, resnet50_os32 at 641x641: 200k steps of 64 with
AutoAugment, from ImageNet weights, which are not part of this file). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab2's resnet50_os32 recipe for COCO."""
    config = common.get_config()
    common.use_coco(config)
    config.augment.color_policy = 'simple_classification'
    config.augment.color_policy_magnitude = 0.2
    return config
