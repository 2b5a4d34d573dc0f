"""Mapillary Vistas v1.2 panoptic with Xception-71: 65 classes, images of up to 2177x2177.

    pdl_jax prepare --format=mapillary_vistas --input=VISTAS --split=train --out=data/mapillary
    pdl_jax prepare --format=mapillary_vistas --input=VISTAS --split=val --out=data/mapillary
    python -m pdl_jax.main --config=configs/mapillary.py --workdir=runs/mapillary

Aims at 37.7 PQ on val (Cheng et al., CVPR 2020, table of Mapillary Vistas, single scale, from
ImageNet weights, which are not part of this file). Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The paper's recipe: longest side 2177, crops of 1025x1025, 150k steps of 64."""
    config = common.get_config()
    config.data.path = 'data/mapillary'
    config.data.num_classes = 65
    # Larger images are shrunk while they are read: many have three times as many pixels as the
    # network sees.
    config.data.canvas_height_px = 2176
    config.data.canvas_width_px = 2176
    config.data.num_workers = 16
    config.model.preset = 'paper/xception71'
    common.use_crop(config, 1025, 1025)
    config.augment.resize_max_px = 2177
    config.optimizer.learning_rate = 1e-3
    config.train.batch_size = 64
    config.train.num_steps = 150_000
    config.evaluate.batch_size = 4
    config.postprocess.stuff_area_limit_px = 4096
    return config
