"""Pascal VOC 2012 semantic segmentation with DeepLabv3+ on Xception-65: 21 classes, 513x513.

    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 --sbd=benchmark_RELEASE/dataset \
        --task=semantic --split=trainaug --out=data/voc
    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 \
        --task=semantic --split=val --out=data/voc
    python -m pdl_jax.main --config=configs/voc_semantic.py --workdir=runs/voc_semantic

Aims at 79.79 mIoU on val (Chen et al., ECCV 2018, Xception, separable ASPP and decoder, output
stride 16, no COCO pre-training, 54.17 G multiply-adds; 82.20 with COCO), from ImageNet weights,
which are not part of this file. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """TF DeepLab's recipe: 30k steps of 16 crops of 513x513."""
    config = common.get_config()
    common.use_semantic_recipe(config)
    config.data.path = 'data/voc'
    config.data.train_split = 'trainaug'
    config.data.num_classes = 21
    config.data.num_workers = 8
    config.model.preset = 'tensorflow/deeplab_v3plus_xception65_os16'
    common.use_crop(config, 513, 513)
    config.train.num_steps = 30_000
    return config
