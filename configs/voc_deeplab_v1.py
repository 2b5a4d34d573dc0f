"""Pascal VOC 2012 with DeepLab v1, LargeFOV on VGG-16: 21 classes, dense CRF.

    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 --sbd=benchmark_RELEASE/dataset \
        --task=semantic --split=trainaug --out=data/voc
    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 \
        --task=semantic --split=val --out=data/voc
    pdl_jax convert --from=torchvision --input=vgg16-397923af.pth --output=runs/imagenet_vgg16
    python -m pdl_jax.main --config=configs/voc_deeplab_v1.py --workdir=runs/voc_deeplab_v1 \
        --config.model.init_checkpoint=runs/imagenet_vgg16 --config.model.normalization=imagenet
    pdl_jax evaluate --workdir=runs/voc_deeplab_v1 --crf=voc_v1

Aims at 62.25 mIoU on val, 67.64 with the CRF (Chen et al., ICLR 2015, LargeFOV of 20.5 M
parameters), from ImageNet weights; the rate is divided by 10 every 2000 steps. Not run to its end
here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab v1's recipe: 6k steps of 20 crops of 321x321."""
    config = common.get_config()
    common.use_semantic_recipe(config)
    common.use_deeplab_v1_v2_recipe(config)
    config.model.preset = 'caffe/deeplab_v1_vgg16_largefov_os8'
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = 'step'
    config.optimizer.decay_at_steps = (2_000, 4_000)
    config.train.batch_size = 20
    config.train.num_steps = 6_000
    return config
