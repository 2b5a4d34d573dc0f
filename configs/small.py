"""The small network for data of your own: a narrow MobileNetV2 that a laptop trains.

    python -m pdl_jax.main --config=configs/small.py --workdir=runs/own

`pdl_jax suggest data/own` writes a configuration on top of it, whose sizes fit the data.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """A narrow MobileNetV2 and decoder, small enough for a laptop, and a schedule to match."""
    config = common.get_config()
    config.data.path = 'data/own'
    config.model.backbone = 'mobilenet_v2'
    config.model.width_multiplier = 0.5
    config.model.output_stride = 16
    config.model.backbone_padding = 'same'
    config.model.aspp_rates = (2, 4, 6)
    config.model.aspp_pooling = 'global'
    config.model.semantic_features = 64
    config.model.semantic_low_level_features = (24, 12)
    config.model.semantic_aspp_features = 64
    config.model.semantic_head_features = 48
    config.model.instance_features = 48
    config.model.instance_low_level_features = (16, 8)
    config.model.instance_aspp_features = 48
    config.model.norm_momentum = 0.9
    use_small_schedule(config)
    return config


def use_small_schedule(config: ConfigDict) -> None:
    """Sets a training of a DeepLab from scratch on few small images."""
    config.loss.top_k_fraction = 0.5
    config.optimizer.learning_rate = 2e-3
    use_short_schedule(config)


def use_short_schedule(config: ConfigDict) -> None:
    """Sets a training of any network from scratch on few small images."""
    config.augment.min_scale = 0.75
    config.augment.max_scale = 1.25
    config.augment.num_scales = 0

    config.optimizer.warmup_steps = 50
    config.optimizer.ema_decay = 0.99
    config.optimizer.clip_norm = 10.0

    config.train.batch_size = 16
    config.train.num_steps = 700
    config.train.log_every_steps = 25
    config.train.picture_every_steps = 350
    config.train.checkpoint_every_steps = 175
    config.train.evaluate_every_steps = 350
    config.train.keep_checkpoints = 3

    config.evaluate.batch_size = 10
