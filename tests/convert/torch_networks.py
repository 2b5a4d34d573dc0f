"""The networks of `benchmarks.torch_networks`; skips its importer without torch."""

import pytest

torch = pytest.importorskip(
    'torch', reason="the comparison with PyTorch needs it: pip install 'pdl_jax[convert]'"
)

from benchmarks.torch_networks.bowenc0221 import Bowenc0221  # noqa: E402, F401
from benchmarks.torch_networks.bowenc0221_backbones import HRNet, MobileNetV2, ResNet, Xception65  # noqa: E402, F401
from benchmarks.torch_networks.detectron2 import (  # noqa: E402, F401
    HRNET_LAYOUT,
    XCEPTION_LAYOUT,
    Detectron2,
    DetectronDeepLab,
    DetectronResNet,
    Layout,
)
from benchmarks.torch_networks.layers import HEADS  # noqa: E402, F401
from benchmarks.torch_networks.tensorflow import TensorflowDeepLab  # noqa: E402, F401
from benchmarks.torch_networks.timm import ResNetD  # noqa: E402, F401
from benchmarks.torch_networks.weights import draw_image, draw_weights  # noqa: E402, F401
