"""Cityscapes semantic segmentation with Lite R-ASPP on MobileNetV3 large: 1.5 M parameters.

Data as for configs/cityscapes.py: the panoptic labels hold the semantic ones.

    python -m pdl_jax.main --config=configs/cityscapes_lr_aspp.py --workdir=runs/cityscapes_lr_aspp

Aims at 72.36 mIoU on val (Howard et al., ICCV 2019, table 7: reduced last block, 128 filters,
output stride 16, from scratch). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The semantic recipe of Cityscapes, with the light network."""
    config = common.get_config()
    common.use_cityscapes(config)
    common.use_semantic_recipe(config)
    config.model.preset = 'tensorflow/lr_aspp_mobilenet_v3_large_os16'
    common.use_crop(config, 769, 769)
    config.optimizer.learning_rate = 1e-2
    config.train.num_steps = 90_000
    return config
