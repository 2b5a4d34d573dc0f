"""The small semantic network for data of your own: Lite R-ASPP on MobileNetV3 small.

    python -m pdl_jax.main --config=configs/small_semantic.py --workdir=runs/own

`pdl_jax suggest data/own` writes a configuration on top of it for data without instances.
"""

from ml_collections import ConfigDict

from configs import common, small


def get_config() -> ConfigDict:
    """The network of configs/scenes_semantic.py, and a schedule for a laptop."""
    config = common.get_config()
    config.data.path = 'data/own'
    small.use_small_schedule(config)
    use_small_network(config)
    return config


def use_small_network(config: ConfigDict) -> None:
    """Sets the light network and plain cross entropy over all pixels."""
    config.model.preset = 'tensorflow/lr_aspp_mobilenet_v3_small_os16'
    config.model.aspp_pooling = 'global'
    config.model.norm_momentum = 0.9
    config.model.backbone_norm_momentum = 0.9
    config.targets.is_crowd_ignored = False
    config.targets.small_instance_weight = 1.0
    config.loss.top_k_fraction = 1.0
