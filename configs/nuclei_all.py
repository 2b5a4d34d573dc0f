"""The network `nuclei` that comes with the package: cells of 5 to 80 px in pictures of any size.

    python examples/gather_nuclei.py --source=dsb2018_nuclei --out=data/nuclei_raw

Its text says how the three splits are prepared. Then:

    python -m pdl_jax.main --config=configs/nuclei_all.py --workdir=runs/nuclei_all
    pdl_jax evaluate --workdir=runs/nuclei_all --step=best --tune
    pdl_jax pack --checkpoint=runs/nuclei_all --step=best --output=nuclei --dtype=float16
"""

from ml_collections import ConfigDict

from configs import nuclei


def get_config() -> ConfigDict:
    """The network of configs/nuclei.py with features of stride 2, for objects of a few pixels."""
    config = nuclei.get_config()
    config.data.path = 'data/nuclei_all'
    # The few larger images are shrunk.
    config.data.canvas_height_px = 520
    config.data.canvas_width_px = 696

    config.model.skip_strides = (8, 4, 2)
    config.model.semantic_features = 48
    config.model.semantic_low_level_features = (24, 12, 8)
    config.model.instance_features = 32
    config.model.instance_low_level_features = (16, 8, 8)

    config.augment.min_scale = 0.6
    config.augment.max_scale = 1.6
    config.augment.vertical_flip_probability = 0.5
    config.augment.quarter_turn_probability = 0.5
    config.augment.brightness = 0.2
    config.augment.contrast = 0.3
    config.augment.saturation = 0.3
    config.augment.hue = 0.05

    config.targets.sigma_px = 4.0
    config.targets.small_instance_area_px = 300

    config.optimizer.ema_decay = 0.995
    config.train.num_steps = 1600
    config.train.evaluate_every_steps = 800
    config.train.checkpoint_every_steps = 200
    config.train.picture_every_steps = 0
    config.train.keep_checkpoints = 2

    config.evaluate.extra_metrics = ('ap',)
    config.postprocess.nms_kernel_px = 7
    config.postprocess.max_centers = 400
    config.targets.max_instances = 400
    return config
