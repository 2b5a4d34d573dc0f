"""ImageNet-1k with ResNet-50, the classifier that most backbones begin as.

    pdl_jax prepare --format=imagenet --input=ILSVRC --split=train --out=data/imagenet
    pdl_jax prepare --format=imagenet --input=ILSVRC --split=val --out=data/imagenet
    python -m pdl_jax.main --config=configs/imagenet.py --workdir=runs/imagenet_resnet50
    python -m pdl_jax.main --config=configs/coco.py --workdir=runs/coco \
        --config.model.init_checkpoint=runs/imagenet_resnet50

Published: 76.1 top-1, 92.9 top-5 (torchvision's ResNet50_Weights.IMAGENET1K_V1: 90 epochs of 256
images, the rate divided by 10 every 30 epochs); the same epochs of 1024 images by the rule of Goyal
et al., Accurate, Large Minibatch SGD, 2017. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import classification

_NUM_TRAIN = 1_281_167


def get_config() -> ConfigDict:
    """The recipe: 90 epochs, SGD, rate 0.4 for 1024 images, warm-up over 5 epochs."""
    config = classification.get_config()
    use_imagenet(config, num_epochs=90)
    config.optimizer.kind = 'sgd'
    config.optimizer.learning_rate = 0.4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = 'step'
    epoch = _NUM_TRAIN // config.train.batch_size
    config.optimizer.warmup_steps = 5 * epoch
    config.optimizer.decay_at_steps = (30 * epoch, 60 * epoch, 80 * epoch)
    return config


def use_imagenet(config: ConfigDict, *, num_epochs: int, batch_size: int = 1024) -> None:
    """Sets the data, and a schedule of so many epochs."""
    config.data.path = 'data/imagenet'
    config.data.num_classes = 1000
    # Beyond the crop, so that parts of an image keep their detail.
    config.data.canvas_height_px = 384
    config.data.canvas_width_px = 384
    config.data.num_workers = 16
    config.train.batch_size = batch_size
    config.train.num_steps = num_epochs * _NUM_TRAIN // batch_size
    config.train.evaluate_every_steps = 5 * _NUM_TRAIN // batch_size
    config.evaluate.batch_size = 256
