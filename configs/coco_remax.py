"""COCO panoptic with ReMaX on MobileNetV3-small, 641x641; large and ResNet-50 by their presets.

    python -m pdl_jax.main --config=configs/coco_remax.py --workdir=runs/coco_remax \
        --config.model.init_checkpoint=runs/mobilenet_v3_small

ReMaX relaxes masks (ReMask) and classes (ReClass) of kMaX-DeepLab in training only. The paper's
networks were never published, and their endpoints in MobileNetV3 are not known. ResNet-50 at
1281x1281: --config.model.preset=remax/resnet50. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import coco_kmax, kmax


def get_config() -> ConfigDict:
    """kMaX-DeepLab's recipe for COCO at half the size, relaxed."""
    config = kmax.get_config()
    coco_kmax.use_coco(config, side_px=641)
    kmax.use_strong_augmentation(config)
    config.model.preset = 'remax/mobilenet_v3_small'
    return config
