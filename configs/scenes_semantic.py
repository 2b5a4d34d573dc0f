"""Semantic segmentation of generated scenes with Lite R-ASPP on MobileNetV3 small.

    python -m pdl_jax.main --config=configs/scenes_semantic.py --workdir=runs/scenes_semantic

Trains from scratch on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import common, scenes


def get_config() -> ConfigDict:
    """The data and the schedule of configs/scenes.py, with the light semantic network."""
    config = common.get_config()
    scenes.use_scenes(config)
    config.model.preset = 'tensorflow/lr_aspp_mobilenet_v3_small_os16'
    config.model.aspp_pooling = 'global'
    config.model.norm_momentum = 0.9
    config.model.backbone_norm_momentum = 0.9
    config.targets.is_crowd_ignored = False
    config.targets.small_instance_weight = 1.0
    config.loss.top_k_fraction = 1.0
    return config
