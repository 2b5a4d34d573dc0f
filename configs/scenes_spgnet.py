"""Semantic segmentation of generated scenes with a small SPGNet: two stages of a narrow ResNet-18.

    python -m pdl_jax.main --config=configs/scenes_spgnet.py --workdir=runs/scenes_spgnet

Trains from scratch on two CPU cores, with the data and the schedule of configs/scenes_semantic.py.

After 150 of the 700 steps (--config.train.num_steps=150) it has 35.2 and 36.7 mIoU on 100 unseen
scenes (seeds 0 and 1), and the one stage of configs/scenes_spgnet_one_stage.py, of as many
parameters, 54.7 and 52.8: so early, two stages learn more slowly. Not run to the end.
"""

from ml_collections import ConfigDict

from configs import common, scenes


def get_config() -> ConfigDict:
    """Two stages."""
    config = common.get_config()
    scenes.use_scenes(config)
    use_network(config)
    return config


def use_network(config: ConfigDict) -> None:
    """Sets the narrow network and plain cross entropy over all pixels."""
    config.model.preset = 'spgnet/resnet18'
    config.model.width_multiplier = 0.25
    config.model.semantic_features = 32
    config.model.norm_momentum = 0.9
    config.targets.is_crowd_ignored = False
    config.targets.small_instance_weight = 1.0
    config.loss.top_k_fraction = 1.0
