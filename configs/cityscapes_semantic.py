"""Cityscapes semantic segmentation with DeepLabv3+ on Xception-65 at output stride 16: 19 classes.

Data as for configs/cityscapes.py: the panoptic labels hold the semantic ones.

    python -m pdl_jax.main --config=configs/cityscapes_semantic.py \
        --workdir=runs/cityscapes_semantic

Aims at 78.79 mIoU on val (TF DeepLab's model zoo, 418.64 G multiply-adds at 1025x2049, from
ImageNet weights, which are not part of this file). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """TF DeepLab's recipe: 90k steps of 16 crops of 769x769, evaluated on whole images."""
    config = common.get_config()
    common.use_cityscapes(config)
    common.use_semantic_recipe(config)
    config.model.preset = 'tensorflow/deeplab_v3plus_xception65_os16'
    common.use_crop(config, 769, 769)
    # The average over whole images of evaluation, as over whole crops of training.
    config.model.aspp_pooling = 'global'
    config.optimizer.learning_rate = 1e-2
    config.train.num_steps = 90_000
    return config
