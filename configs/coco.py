"""COCO panoptic with ResNet-50 at output stride 32: 133 classes and void, 641x641.

    python -m pdl_jax.data.prepare --format=coco_panoptic --images=train2017 --panoptic=panoptic_train2017 \
        --json=panoptic_train2017.json --out=data/coco --split=train
    python -m pdl_jax.data.prepare --format=coco_panoptic --images=val2017 --panoptic=panoptic_val2017 \
        --json=panoptic_val2017.json --out=data/coco --split=val
    python -m pdl_jax.main --config=configs/coco.py --workdir=runs/coco

DeepLab2 reports 34.1 PQ on val for this network and schedule (200k steps, batch 64), started from ImageNet weights and
with AutoAugment, neither of which is part of this file; it has not been run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab2's resnet50_os32 recipe for COCO."""
    config = common.get_config()
    config.unlock()
    config.data.path = 'data/coco'
    config.data.canvas_height_px = 640
    config.data.canvas_width_px = 640
    config.data.num_workers = 8

    config.augment.crop_height_px = 641
    config.augment.crop_width_px = 641
    config.augment.resize_min_px = 641
    config.augment.resize_max_px = 641
    config.augment.min_scale = 0.5
    config.augment.max_scale = 1.5
    config.augment.num_scales = 10

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 2000
    config.train.batch_size = 64
    config.train.num_steps = 200_000

    config.postprocess.nms_kernel_px = 41
    config.postprocess.stuff_area_limit_px = 4096
    return config.lock()
