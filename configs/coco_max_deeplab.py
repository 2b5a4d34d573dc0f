"""COCO panoptic with MaX-DeepLab-S: 133 classes, 641x641, 128 queries.

    pdl_jax convert --from=deeplab2 --preset=imagenet/max_s --output=runs/max_s \
        --input=max_deeplab_s_backbone_imagenet1k_strong_training_strategy
    python -m pdl_jax.main --config=configs/coco_max_deeplab.py --workdir=runs/coco_max_deeplab \
        --config.model.init_checkpoint=runs/max_s

Aims at 45.9 PQ on val (DeepLab2, 100k steps of 64), 46.5 in 200k and 47.0 in 400k steps; at
1025x1025 at 47.9, 48.7 and 49.0, with area limits of 256 and 4096 pixels. DeepLab2 trains by Adam
without weight decay, the paper by RAdam with Lookahead. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import coco_kmax, kmax


def get_config() -> ConfigDict:
    """DeepLab2's recipe."""
    config = kmax.get_config()
    coco_kmax.use_coco(config, side_px=641)
    config.model.preset = 'deeplab2/max_deeplab_s_os16'
    config.optimizer.kind = 'adam'
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.adam_epsilon = 1e-7
    config.optimizer.warmup_start_factor = 0.0
    config.train.num_steps = 100_000
    config.augment.min_scale = 0.5
    config.augment.max_scale = 1.5
    config.augment.num_scales = 11
    return config
