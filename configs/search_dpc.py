"""Random search of the Dense Prediction Cell on the features of a frozen encoder (proxy task).

    python -m pdl_jax search --config=configs/search_dpc.py --workdir=runs/dpc \
        --config.model.init_checkpoint=runs/scenes_semantic

The encoder is that of scenes_semantic.py, which is trained before.
"""

from ml_collections import ConfigDict

from configs import scenes_semantic, search


def get_config() -> ConfigDict:
    """The encoder of scenes_semantic.py, and cells of 64 channels."""
    config = scenes_semantic.get_config()
    search.use_search(config)
    config.model.decoder = 'deeplab'
    config.model.context = 'dense_prediction_cell'
    config.model.skip_strides = ()
    config.model.semantic_low_level_features = ()
    config.model.semantic_aspp_features = 64
    config.model.semantic_head = 'none'

    config.optimizer.ema_decay = 0.0
    config.train.batch_size = 16
    config.train.num_steps = 300
    config.search.method = 'random'
    config.search.space = 'dense_prediction_cell'
    config.search.num_students = 32
    # The multiply-adds of the published cell.
    config.search.target_latency = 2e7
    config.search.mutation_share = 0.5
    return config
