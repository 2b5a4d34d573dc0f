"""Cityscapes panoptic with Xception-71: the network of the paper's best single-model results.

Data as for configs/cityscapes.py.

    python -m pdl_jax.main --config=configs/cityscapes_xception71.py \
        --workdir=runs/cityscapes_xception71

Aims at 63.0 PQ, 80.5 mIoU on val (Cheng et al., CVPR 2020, ablation row 7: 46.72 M parameters,
547.49 G multiply-adds, from ImageNet weights, which are not part of this file). Not run to its end
here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The paper's network and its schedule: Adam at 1e-3, batches of 32, 60k steps."""
    config = common.get_config()
    common.use_cityscapes(config)
    config.model.preset = 'paper/xception71'
    config.optimizer.learning_rate = 1e-3
    return config
