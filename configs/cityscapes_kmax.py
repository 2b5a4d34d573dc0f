"""Cityscapes with kMaX-DeepLab, ResNet-50: 19 classes, 1025x2049, 256 queries.

    pdl_jax convert --from=kmax_pytorch --input=kmax_resnet50_coco.pth --output=runs/coco_r50
    python -m pdl_jax.main --config=configs/cityscapes_kmax.py --workdir=runs/cityscapes_kmax \
        --config.model.init_checkpoint=runs/coco_r50

Aims at 63.5 PQ on val (bytedance/kmax-deeplab; 64.3 in DeepLab2), 60k steps of 32. Other backbones
of DeepLab2: MaX-S 66.4, ConvNeXt-T 66.3, S 67.3, B 68.0, L 68.4, as
--config.model.preset=kmax_deeplab2/convnext_tiny_cityscapes. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common, kmax


def get_config() -> ConfigDict:
    """The PyTorch program's recipe for Cityscapes."""
    config = kmax.get_config()
    common.use_cityscapes(config)
    kmax.use_strong_augmentation(config)
    config.augment.color_policy_magnitude = 0.2
    config.model.preset = 'kmax_pytorch/resnet50_cityscapes'
    config.targets.max_segments = 256
    config.optimizer.learning_rate = 3e-4
    config.train.batch_size = 32
    config.train.num_steps = 60_000
    config.augment.min_scale = 0.5
    config.augment.max_scale = 2.0
    return config
