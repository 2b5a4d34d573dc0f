"""ADE20K panoptic with kMaX-DeepLab, ResNet-50: 150 classes, 641x641, 128 queries.

    pdl_jax convert --from=torchvision --input=resnet50-0676ba61.pth --output=runs/resnet50
    python -m pdl_jax.main --config=configs/ade20k_kmax.py --workdir=runs/ade20k_kmax \
        --config.model.init_checkpoint=runs/resnet50

Aims at 41.5 PQ on val (DeepLab2's model zoo; 42.3 at 1281x1281), 100k steps of 64. ConvNeXt-L has
48.7 (50.9): --config.model.preset=kmax_pytorch/convnext_large_ade20k. configs/ade20k.py tells how
the data are prepared. Not run to its end here.
"""

from ml_collections import ConfigDict

from configs import coco_kmax, kmax


def get_config() -> ConfigDict:
    """The recipe for ADE20K."""
    config = kmax.get_config()
    coco_kmax.use_coco(config, side_px=641)
    config.data.path = 'data/ade20k'
    config.data.num_classes = 151
    # Images have many sizes, some of them thousands of pixels.
    config.data.canvas_height_px = 1024
    config.data.canvas_width_px = 1024
    config.model.preset = 'kmax_pytorch/resnet50_ade20k'
    config.train.num_steps = 100_000
    config.augment.min_scale = 0.5
    config.augment.max_scale = 2.0
    return config
