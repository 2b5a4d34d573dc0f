"""Pascal VOC 2012 with DeepLab v2 on ResNet-101: 21 classes, three input scales, dense CRF.

    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 --sbd=benchmark_RELEASE/dataset \
        --task=semantic --split=trainaug --out=data/voc
    pdl_jax prepare --format=voc --input=VOCdevkit/VOC2012 \
        --task=semantic --split=val --out=data/voc
    python -m pdl_jax.main --config=configs/voc_deeplab_v2.py --workdir=runs/voc_deeplab_v2
    pdl_jax evaluate --workdir=runs/voc_deeplab_v2 --crf=voc_v2

Aims at 76.35 mIoU on val, 77.69 with the CRF (Chen et al., TPAMI 2018); kazuto1011/deeplab-pytorch
reaches 76.65 and 77.93 with its file, which `pdl_jax convert --from=deeplab_pytorch` reads. Both
start from weights trained on COCO, which are not part of this file. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """DeepLab v2's recipe: 20k steps of 10 crops of 321x321, with the BatchNorm of the start."""
    config = common.get_config()
    common.use_semantic_recipe(config)
    common.use_deeplab_v1_v2_recipe(config)
    config.model.preset = 'deeplab_pytorch/deeplab_v2_resnet101_os8'
    config.model.freeze_backbone_norm = True
    config.optimizer.learning_rate = 2.5e-4
    config.train.batch_size = 10
    config.train.accumulation_steps = 2
    config.train.num_steps = 20_000
    return config
