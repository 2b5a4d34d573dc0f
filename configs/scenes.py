"""Generated scenes: 7 thing and 7 stuff classes at 192x256, rendered by the run itself.

    python -m pdl_jax.main --config=configs/scenes.py --workdir=runs/scenes

From scratch, PQ on 100 unseen scenes reaches 67 (things 51, stuff 83) in eight minutes on two CPU
cores, with 3 GB of memory; `pdl_jax evaluate --tune` makes it 75.
"""

from ml_collections import ConfigDict

from configs import small


def get_config() -> ConfigDict:
    """The small network on generated scenes."""
    config = small.get_config()
    use_scenes(config)
    return config


def use_scenes(config: ConfigDict) -> None:
    """The generated data, and a schedule that fits a laptop."""
    use_scenes_data(config)
    small.use_small_schedule(config)

    config.targets.sigma_px = 4.0
    config.targets.small_instance_area_px = 400
    config.targets.max_instances = 64

    config.postprocess.nms_kernel_px = 9
    config.postprocess.max_centers = 64
    config.postprocess.stuff_area_limit_px = 128


def use_scenes_data(config: ConfigDict) -> None:
    """The generated data, for any network."""
    config.data.path = 'data/scenes'
    config.data.num_classes = 14
    config.data.scenes.num_train = 1000
    config.data.scenes.num_eval = 100

    config.augment.crop_height_px = 129
    config.augment.crop_width_px = 161
