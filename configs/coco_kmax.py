"""COCO panoptic with kMaX-DeepLab, ResNet-50: 133 classes, 1281x1281, 128 queries.

    pdl_jax convert --from=torchvision --input=resnet50-0676ba61.pth --output=runs/resnet50
    python -m pdl_jax.main --config=configs/coco_kmax.py --workdir=runs/coco_kmax \
        --config.model.init_checkpoint=runs/resnet50

Aims at 53.3 PQ on val (bytedance/kmax-deeplab, 150k steps of 64). Other backbones:
--config.model.preset=kmax_pytorch/convnext_tiny_coco (55.5), _small_coco (56.7), _base_coco (57.2),
_large_coco (57.9). configs/coco.py tells how the data are prepared. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import common, kmax


def get_config() -> ConfigDict:
    """The PyTorch program's recipe for COCO."""
    config = kmax.get_config()
    use_coco(config)
    kmax.use_strong_augmentation(config)
    return config


def use_coco(config: ConfigDict, side_px: int = 1281) -> None:
    """Sets the data of COCO, resized to fit a square."""
    config.data.path = 'data/coco'
    config.data.num_classes = 134
    config.data.canvas_height_px = 640
    config.data.canvas_width_px = 640
    config.data.num_workers = 8
    common.use_crop(config, side_px, side_px)
    config.augment.resize_min_px = side_px
    config.augment.resize_max_px = side_px
