"""The sources by their names for `--from`; a new one is a file here and a line in `SOURCES`."""

from pdl_jax.convert import (
    bowenc0221,
    convnext,
    deeplab2,
    deeplab_pytorch,
    detectron2,
    keras,
    kmax_pytorch,
    model_garden,
    tensorflow,
    timm,
    torchvision,
)
from pdl_jax.convert.source import Source

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        bowenc0221,
        detectron2,
        deeplab2,
        torchvision,
        keras,
        tensorflow,
        kmax_pytorch,
        model_garden,
        convnext,
        timm,
        deeplab_pytorch,
    )
}
