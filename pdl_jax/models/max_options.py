"""The parts of a MaX-DeepLab as one frozen record, which presets and configurations fill."""

import dataclasses
from typing import ClassVar

from pdl_jax.models.flat_fields import FlatFields
from pdl_jax.models.kmax_options import check_query_fields
from pdl_jax.models.options import BackboneOptions, check_choice


@dataclasses.dataclass(frozen=True)
class MaXNetworkOptions:
    """One network; the defaults are MaX-DeepLab-S.

    Attributes:
      backbone: a ResNet; queries and pixels exchange after each unit of its last stage.
      normalization: see `preprocess.normalize`.
      pixel_mean, pixel_deviation: of pixels in [0, 255] by channel, for the normalisation 'given'.
      norm_momentum, norm_epsilon: BatchNorm's, behind the backbone.
      num_queries: masks of an image.
      query_features: channels of the queries.
      mask_features: channels of the product of pixels and queries.
      ffn_features: hidden channels of the feed-forward networks.
      num_heads: heads of attention between pixels and queries.
      transformer_keep_prob: share of images that keep a residual branch of the transformer layers
        in training.
      dropout_rate: dropout after the context module of the semantic branch, in training.

    Raises:
      ValueError: a field has a value that it cannot have; the backbone's endpoints are activated,
        which the decoder cannot add to.
    """

    # How maps are resized: DeepLab2's convention, for odd input sizes.
    resize: ClassVar[str] = 'corner_aligned'

    backbone: BackboneOptions = BackboneOptions('max_s', output_stride=16, endpoints='unactivated')
    normalization: str = 'unit'
    pixel_mean: tuple[float, ...] | None = None
    pixel_deviation: tuple[float, ...] | None = None
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    num_queries: int = 128
    query_features: int = 256
    mask_features: int = 128
    ffn_features: int = 2048
    num_heads: int = 8
    transformer_keep_prob: float = 1.0
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        check_choice('endpoints', self.backbone.endpoints, ('unactivated',))
        check_query_fields(self)


MAX_FIELDS = FlatFields(MaXNetworkOptions)
