"""ADE20K panoptic with ResNet-50 at output stride 16: 150 classes and void, 641x641.

    pdl_jax prepare --format=ade20k --input=ADEChallengeData2016 --split=train --out=data/ade20k
    pdl_jax prepare --format=ade20k --input=ADEChallengeData2016 --split=val --out=data/ade20k
    python -m pdl_jax.main --config=configs/ade20k.py --workdir=runs/ade20k

No number of Panoptic-DeepLab with ResNet-50 on ADE20K was published; kMaX-DeepLab, a mask
transformer on the same backbone, has 41.5 PQ on val (DeepLab2's model zoo). The recipe is
DeepLab2's for COCO, with its label format for ADE20K. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """COCO's recipe on ADE20K, half as long for a sixth of the images."""
    config = common.get_config()
    common.use_coco(config, path='data/ade20k')
    config.data.num_classes = 151
    # Images have many sizes, some of them thousands of pixels.
    config.data.canvas_height_px = 1024
    config.data.canvas_width_px = 1024
    config.model.preset = 'deeplab2/resnet50_os16'
    config.train.num_steps = 100_000
    return config
