"""Generated scenes with a small kMaX-DeepLab: 7 thing and 7 stuff classes at 192x256.

    python -m pdl_jax.main --config=configs/scenes_kmax.py --workdir=runs/scenes_kmax

The data and the number of steps are those of configs/scenes.py, where Panoptic-DeepLab has 67 PQ
(things 51, stuff 83). PQ on the same 100 unseen scenes reaches 53 (things 16, stuff 90), 54 with
`pdl_jax evaluate --tune`: regions are learnt at once, and small things take queries much longer to
share out. With ReMaX (--config.model.num_relaxed_layers=3 --config.loss.class_relaxation=0.1) the
same steps reach 55 (things 19, stuff 90). About twelve minutes on two CPU cores, three more to
compile.
"""

from ml_collections import ConfigDict

from configs import kmax, scenes, small


def get_config() -> ConfigDict:
    """A narrow network with 64 queries on generated scenes."""
    config = kmax.get_config()
    scenes.use_scenes_data(config)
    small.use_short_schedule(config)
    config.model.preset = 'remax/mobilenet_v3_small'
    config.model.num_relaxed_layers = 0
    config.model.decoder_features = (64, 32, 32, 16)
    config.model.decoder_depths = (1, 1, 1, 1)
    config.model.transformer_depths = (1, 1, 1)
    config.model.num_queries = 64
    config.model.query_features = 64
    config.model.mask_features = 32
    config.model.ffn_features = 256
    config.model.num_heads = 4
    config.model.transformer_keep_prob = 1.0
    config.model.semantic_branch = 'head'
    config.model.norm_momentum = 0.9
    config.targets.max_segments = 64
    config.targets.small_instance_area_px = 400
    config.loss.instance_samples_px = 512
    config.loss.semantic_samples_px = 0
    config.loss.class_relaxation = 0.0
    config.optimizer.learning_rate = 2e-3
    config.optimizer.backbone_learning_rate_factor = 1.0
    config.optimizer.warmup_start_factor = 0.0
    return config
