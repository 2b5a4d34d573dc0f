"""The module of a network by the class of its options."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.models.classifier import Classifier
from pdl_jax.models.deeperlab import DeeperLab
from pdl_jax.models.deeperlab_options import DeeperLabNetworkOptions
from pdl_jax.models.deeplab import DeepLab
from pdl_jax.models.kmax_deeplab import KMaXDeepLab
from pdl_jax.models.kmax_options import KMaXNetworkOptions
from pdl_jax.models.max_deeplab import MaXDeepLab
from pdl_jax.models.max_options import MaXNetworkOptions


def make_module(
    num_classes: int,
    options: AnyNetworkOptions,
    pool_crop: tuple[int, int] | None = None,
    *,
    dtype: Any = jnp.float32,
    freeze_backbone_norm: bool = False,
) -> nn.Module:
    """Makes the network that options describe.

    Args:
      num_classes: classes, void excluded where the network has a logit of its own for it.
      options: the parts.
      pool_crop: (height, width) in pixels of the window that an ASPP's pooling averages over, None
        for the whole input.
      dtype: dtype of activations.
      freeze_backbone_norm: use the backbone's stored BatchNorm statistics in training too.
    """
    shared: dict[str, Any] = {'dtype': dtype, 'freeze_backbone_norm': freeze_backbone_norm}
    if isinstance(options, KMaXNetworkOptions):
        return KMaXDeepLab(num_classes, options, **shared)
    if isinstance(options, MaXNetworkOptions):
        return MaXDeepLab(num_classes, options, **shared)
    if isinstance(options, DeeperLabNetworkOptions):
        return DeeperLab(num_classes, options, pool_crop, **shared)
    if options.decoder == 'classifier':
        return Classifier(num_classes, options, **shared)
    return DeepLab(num_classes, options, pool_crop, **shared)
