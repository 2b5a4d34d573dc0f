"""COCO panoptic as TensorFlow Model Garden trains it: ResNet-50, output stride 16, 640x640.

    pdl_jax prepare --format=coco_panoptic --spec=coco_ids --images=train2017 \
        --panoptic=panoptic_train2017 --json=panoptic_train2017.json --out=data/coco_ids \
        --split=train
    pdl_jax prepare --format=coco_panoptic --spec=coco_ids --images=val2017 \
        --panoptic=panoptic_val2017 --json=panoptic_val2017.json --out=data/coco_ids --split=val
    python -m pdl_jax.main --config=configs/coco_model_garden.py --workdir=runs/coco_model_garden

Classes are the category ids, 201 logits with that of void. Aims at 36.80 PQ on val (37.51 of
things, 35.73 of stuff; 200k steps of 64 from ImageNet weights). The other networks:
--config.model.preset=model_garden/resnet101_os16 (38.39; 39.47, 36.75) and, with
--config.augment.max_scale=2.0 and --config.optimizer.learning_rate=1e-3,
model_garden/mobilenet_v3_large_os16 (30.50; 30.10, 31.10) and mobilenet_v3_small_os16 (25.06;
23.46, 27.48). Its PQ counts crowds as ordinary segments, which ours leaves out. Not run to its end
here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Model Garden's recipe of its ResNets."""
    config = common.get_config()
    common.use_coco(config, path='data/coco_ids', side_px=640)
    config.data.num_classes = 201
    config.model.preset = 'model_garden/resnet50_os16'
    config.augment.convention = 'model_garden'
    config.augment.num_scales = 0
    config.augment.color_policy = 'simple_classification'
    config.augment.color_policy_magnitude = 0.2
    return config
