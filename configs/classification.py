"""Every field of a configuration of a classifier that common.py does not have, with its default.

The files imagenet*.py, cifar10.py and scenes_classes.py change what differs for their data.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The defaults: ResNet-50 on crops of 224x224."""
    config = common.get_config()
    use_fields(config)
    return config


def use_fields(config: ConfigDict) -> None:
    """Replaces the sections of Panoptic-DeepLab by those of a classifier."""
    with config.unlocked():
        config.targets = ConfigDict()
        config.loss = ConfigDict()
        config.postprocess = ConfigDict()

        # Share of the target probability that all classes have in equal parts.
        config.targets.label_smoothing = 0.0
        # Mix each image with the next one by a share from Beta(alpha, alpha); 0 mixes none.
        config.targets.mixup_alpha = 0.0

        # Weight of the units that run in backbones with config.model.adaptive_computation.
        config.loss.ponder_weight = 0.005

        # Images whose class has a lower probability become void.
        config.postprocess.min_score = 0.0
    config.model.preset = 'imagenet/resnet50'
    # Open for the fields of any system, as in common.py.
    config.model.unlock()
    config.augment.convention = 'torchvision'
    common.use_crop(config, 224, 224)
    config.augment.resize_min_px = 256
