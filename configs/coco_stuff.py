"""COCO-Stuff 164k semantic segmentation with DeepLabv3 on ResNet-50, output stride 8, 171 classes.

    pdl_jax prepare --format=coco_stuff --input=COCO_STUFF --split=train --out=data/coco_stuff
    pdl_jax prepare --format=coco_stuff --input=COCO_STUFF --split=val --out=data/coco_stuff
    python -m pdl_jax.main --config=configs/coco_stuff.py --workdir=runs/coco_stuff

Aims at 39.4 mIoU on val (mmsegmentation's model zoo, DeepLabV3 R-50-D8, 80k steps, a network with
the deeper stem; from ImageNet weights, which are not part of this file). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """mmsegmentation's schedule: SGD at 0.01, 80k steps of 16 crops of 512x512."""
    config = common.get_config()
    common.use_semantic_recipe(config)
    config.data.path = 'data/coco_stuff'
    config.data.num_classes = 171
    config.data.canvas_height_px = 640
    config.data.canvas_width_px = 640
    config.data.num_workers = 8
    config.model.preset = 'torchvision/deeplab_v3_resnet50_os8'
    common.use_crop(config, 512, 512)
    config.augment.resize_min_px = 512
    config.augment.resize_max_px = 2048
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 5e-4
    config.train.num_steps = 80_000
    return config
