"""Architecture-aware distillation (AKD) in small: the best student of a given teacher.

    python -m pdl_jax.main --config=configs/search_akd.py --workdir=runs/teacher \
        --config.model.preset=imagenet/resnet18 --config.model.width_multiplier=0.5 \
        --config.model.output_stride=16 --config.train.num_steps=300
    python -m pdl_jax search --config=configs/search_akd.py --workdir=runs/akd \
        --config.distill.teacher=runs/teacher

--config.search.method=nas searches without the teacher. docs/search.md has results.
"""

from ml_collections import ConfigDict

from configs import common, search


def get_config() -> ConfigDict:
    """The generated images of scenes_classes.py at 32x32, and students of 60 steps."""
    config = search.get_config()
    config.data.path = 'data/search_classes'
    config.data.scenes.num_train = 1500
    config.data.scenes.num_eval = 500
    config.data.scenes.height_px = 32
    config.data.scenes.width_px = 32
    common.use_crop(config, 32, 32)
    config.augment.resize_min_px = 32
    config.augment.min_crop_share = 0.5

    config.model.preset = 'imagenet/mobile_blocks'
    config.model.backbone_padding = 'symmetric'
    config.model.width_multiplier = 1.0
    config.model.output_stride = 8

    # The paper's weight of the teacher.
    config.distill.weight = 0.9
    config.targets.label_smoothing = 0.0
    config.optimizer.warmup_steps = 10
    config.optimizer.learning_rate = 5e-3
    config.optimizer.ema_decay = 0.0
    config.train.batch_size = 64
    config.train.num_steps = 60
    config.evaluate.batch_size = 200

    config.search.num_students = 16
    config.search.students_per_round = 4
    config.search.target_latency = 3e6
    config.search.num_final = 2
    config.search.final_steps = 200
    config.search.controller.learning_rate = 5e-3
    return config
