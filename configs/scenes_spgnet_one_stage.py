"""Generated scenes with one stage of as many parameters as the two of configs/scenes_spgnet.py.

    python -m pdl_jax.main --config=configs/scenes_spgnet_one_stage.py \
        --workdir=runs/scenes_spgnet_one_stage
"""

from ml_collections import ConfigDict

from configs import scenes_spgnet


def get_config() -> ConfigDict:
    """One deeper stage without guidance."""
    config = scenes_spgnet.get_config()
    config.model.num_stages = 1
    config.model.semantic_features = 96
    config.model.backbone = 'resnet34'
    config.model.stride_convention = 'torchvision'
    return config
