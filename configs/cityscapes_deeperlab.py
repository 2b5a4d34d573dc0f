"""Cityscapes panoptic with DeeperLab, from Xception-71.

Data as for configs/cityscapes.py.

    python -m pdl_jax.main --config=configs/cityscapes_deeperlab.py \
        --workdir=runs/cityscapes_deeperlab

Published for val: 56.5 PQ, 75.6 PC with Xception-71; 52.3 PQ with
--config.model.preset=deeperlab/wide_mobilenet_v2 (Yang et al., arXiv 1902.05093, from ImageNet
weights, which are not part of this file). For Mapillary Vistas val at 1441x1441 it gives 31.95 PQ,
55.26 PC, and 25.20 PQ, 49.80 PC. No program was published: crop and augmentation are DeepLab2's of
configs/cityscapes.py. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common, deeperlab


def get_config() -> ConfigDict:
    """Crops of 1025x2049; PC beside PQ."""
    config = common.get_config()
    common.use_cityscapes(config)
    deeperlab.use_fields(config)
    deeperlab.use_recipe(config)
    return config
