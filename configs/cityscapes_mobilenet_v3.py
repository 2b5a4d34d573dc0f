"""Cityscapes panoptic with MobileNetV3 large at output stride 16.

Data as for configs/cityscapes.py.

    python -m pdl_jax.main --config=configs/cityscapes_mobilenet_v3.py \
        --workdir=runs/cityscapes_mobilenet_v3

Aims at 55.3 PQ and 74.5 mIoU on val (DeepLab2's model zoo, mobilenet_v3_large_os16: 60k steps of 64
with AutoAugment, from ImageNet weights, neither of which is part of this file). Not run to its end
here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab2's recipe.

    --config.model.preset=paper/mobilenet_v3 takes the paper's smaller network.
    """
    config = common.get_config()
    common.use_cityscapes(config)
    config.model.preset = 'deeplab2/mobilenet_v3_large_os16'
    config.targets.small_instance_weight = 1.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 500
    config.train.batch_size = 64
    config.postprocess.nms_kernel_px = 7
    return config
