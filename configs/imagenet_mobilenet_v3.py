"""ImageNet-1k with MobileNetV3-large, the backbone of small panoptic networks.

    python -m pdl_jax.main --config=configs/imagenet_mobilenet_v3.py \
        --workdir=runs/imagenet_mobilenet_v3
    python -m pdl_jax.main --config=configs/cityscapes_mobilenet_v3.py \
        --workdir=runs/cityscapes_mobilenet_v3 \
        --config.model.init_checkpoint=runs/imagenet_mobilenet_v3

The data are those of imagenet.py. Published: 75.2 top-1 (Howard et al., MobileNetV3, ICCV 2019),
74.0 top-1, 91.3 top-5 (torchvision's MobileNet_V3_Large_Weights.IMAGENET1K_V1, 600 epochs). This
recipe has fewer epochs and no search for a policy: a cosine instead of exponential steps of
RMSProp, label smoothing, mixup and an average of the variables. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import classification, imagenet


def get_config() -> ConfigDict:
    """The recipe: 300 epochs, AdamW, cosine, EMA."""
    config = classification.get_config()
    imagenet.use_imagenet(config, num_epochs=300, batch_size=2048)
    config.model.preset = 'imagenet/mobilenet_v3_large'
    config.targets.label_smoothing = 0.1
    config.targets.mixup_alpha = 0.2
    config.augment.min_crop_share = 0.2
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.4
    config.optimizer.kind = 'adamw'
    config.optimizer.learning_rate = 4e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_steps = 3000
    config.optimizer.ema_decay = 0.9999
    return config
