"""MaX-DeepLab: masks and classes of queries, which exchange with the pixels inside the backbone."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from pdl_jax.models.max_options import MAX_FIELDS, MaXNetworkOptions
from pdl_jax.presets import make_max_network
from pdl_jax.systems.kmax_deeplab import KMaXDeepLabOptions, KMaXDeepLabSystem
from pdl_jax.typing import LabelFormat


@dataclasses.dataclass(frozen=True)
class MaXDeepLabOptions(KMaXDeepLabOptions):
    """The options of MaX-DeepLab: kMaX-DeepLab's rules, and a network of its own."""

    name: ClassVar[str] = 'max_deeplab'
    network_fields: ClassVar[Mapping[str, type]] = MAX_FIELDS.types
    list_network = staticmethod(MAX_FIELDS.list)
    make_network = staticmethod(make_max_network)

    model: MaXNetworkOptions = MaXNetworkOptions()

    def make_system(self, label_format: LabelFormat) -> 'MaXDeepLabSystem':
        """See `SystemOptions.make_system`."""
        return MaXDeepLabSystem(label_format, self)


@dataclasses.dataclass(frozen=True)
class MaXDeepLabSystem(KMaXDeepLabSystem):
    """Labels every pixel by the masks of queries; only the last queries predict.

    Source: Wang et al., MaX-DeepLab, CVPR 2021; DeepLab2's model/loss/max_deeplab_loss.py.
    """

    options: MaXDeepLabOptions
