"""Cityscapes semantic segmentation with SPGNet: two encoder-decoders on ResNet-50, 19 classes.

Data as for configs/cityscapes.py: the panoptic labels hold the semantic ones.

    python -m pdl_jax.main --config=configs/cityscapes_spgnet.py --workdir=runs/cityscapes_spgnet

Published for test: 81.1 mIoU (Cheng et al., ICCV 2019, fine annotations only, several scales and
mirror images, from ImageNet weights, which are not part of this file). No program was published:
pdl_jax/models/spgnet.py says which widths are a choice, and the share of hard pixels below is one.
Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """80k steps of SGD on 16 crops of 769x769, hard pixels only, evaluated on whole images."""
    config = common.get_config()
    common.use_cityscapes(config)
    common.use_semantic_recipe(config)
    config.model.preset = 'spgnet/resnet50'
    common.use_crop(config, 769, 769)
    config.loss.top_k_fraction = 0.2
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 1e-4
    config.train.num_steps = 80_000
    return config
