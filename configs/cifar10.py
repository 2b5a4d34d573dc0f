"""CIFAR-10 with its residual network of 110 layers, from the records of TFDS.

    tfds build cifar10 --file_format=array_record --data_dir=tfds
    pdl_jax prepare --format=tfds --input=tfds/cifar10/3.0.2 --split=train --out=data/cifar10
    pdl_jax prepare --format=tfds --input=tfds/cifar10/3.0.2 --split=test --out=data/cifar10
    python -m pdl_jax.main --config=configs/cifar10.py --workdir=runs/cifar10

Published: 93.6 top-1 (He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, 110
layers: 64k steps of 128 images, the rate divided by 10 after 32k and 48k). Crops there are those of
images padded by 4 pixels; here they show 0.64 to 1 of the image, resized, and the activations are
leaky, as in the code of SACT. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import classification, common


def get_config() -> ConfigDict:
    """The recipe of the paper, on 32x32 pixels."""
    config = classification.get_config()
    config.data.path = 'data/cifar10'
    config.data.eval_split = 'test'
    config.data.num_classes = 10
    config.model.preset = 'imagenet/cifar_resnet110'
    common.use_crop(config, 32, 32)
    config.augment.resize_min_px = 32
    config.augment.min_crop_share = 0.64
    config.augment.max_crop_aspect = 1.0
    config.optimizer.kind = 'sgd'
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_steps = 400
    config.optimizer.schedule = 'step'
    config.optimizer.decay_at_steps = (32_000, 48_000)
    config.train.batch_size = 128
    config.train.num_steps = 64_000
    config.train.evaluate_every_steps = 4_000
    config.evaluate.batch_size = 500
    return config
