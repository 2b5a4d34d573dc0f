"""Semantic segmentation of generated scenes with Lite R-ASPP on MobileNetV3 small.

    python -m pdl_jax.main --config=configs/scenes_semantic.py --workdir=runs/scenes_semantic

Trains from scratch on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import common, scenes, small_semantic


def get_config() -> ConfigDict:
    """The data and the schedule of configs/scenes.py, with the light semantic network."""
    config = common.get_config()
    scenes.use_scenes(config)
    small_semantic.use_small_network(config)
    return config
