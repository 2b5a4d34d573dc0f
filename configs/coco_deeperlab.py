"""COCO panoptic with DeeperLab, from Xception-71.

Data as for configs/coco.py.

    python -m pdl_jax.main --config=configs/coco_deeperlab.py --workdir=runs/coco_deeperlab

Published for val: 33.8 PQ with Xception-71, and 27.9 PQ with
--config.model.preset=deeperlab/wide_mobilenet_v2; test-dev 34.3 PQ (Yang et al., arXiv 1902.05093,
from ImageNet weights, which are not part of this file). No program was published: crop and schedule
are those of configs/coco.py but for the optimiser. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common, deeperlab


def get_config() -> ConfigDict:
    """Crops of 641x641; PC beside PQ."""
    config = common.get_config()
    common.use_coco(config)
    deeperlab.use_fields(config)
    deeperlab.use_recipe(config)
    config.postprocess.stuff_area_limit_px = 4096
    return config
