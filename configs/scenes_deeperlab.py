"""Generated scenes with a small DeeperLab: 7 thing and 7 stuff classes at 192x256.

    python -m pdl_jax.main --config=configs/scenes_deeperlab.py --workdir=runs/scenes_deeperlab

The data, the encoder and the number of steps are those of configs/scenes.py, where Panoptic-DeepLab
has 67 PQ (things 51, stuff 83). On the same 100 unseen scenes this one reaches 61 (things 35, stuff
88; Parsing Covering 69), 64 with `pdl_jax evaluate --tune`.
"""

from ml_collections import ConfigDict

from configs import common, deeperlab, scenes, small


def get_config() -> ConfigDict:
    """A narrow MobileNetV2, and separable convolutions in the decoder."""
    config = common.get_config()
    deeperlab.use_fields(config)
    scenes.use_scenes_data(config)
    small.use_short_schedule(config)
    config.evaluate.extra_metrics = ('pc',)

    config.model.preset = 'deeperlab/light_wide_mobilenet_v2'
    config.model.width_multiplier = 0.5
    config.model.aspp_rates = (2, 4, 6)
    config.model.aspp_features = 64
    config.model.aspp_pooling = 'global'
    config.model.low_level_features = 12
    config.model.fusion = 'separable3x3'
    config.model.fusion_features = 1024
    config.model.head_conv = 'separable5x5'
    config.model.head_features = 48
    config.model.norm_momentum = 0.9

    config.targets.radius_px = 4.0
    config.targets.small_instance_area_px = 400
    config.targets.max_instances = 64
    config.loss.top_k_fraction = 0.5
    config.optimizer.learning_rate = 2e-3

    config.postprocess.max_candidates = 64
    config.postprocess.max_instances = 64
    config.postprocess.stuff_area_limit_px = 128
    return config
