"""The parts of a DeeperLab as one frozen record, which presets and configurations fill."""

import dataclasses

from pdl_jax.models.blocks import FUSIONS
from pdl_jax.models.flat_fields import FlatFields
from pdl_jax.models.options import BackboneOptions, check_choice
from pdl_jax.ops.resize import MODES


@dataclasses.dataclass(frozen=True)
class DeeperLabNetworkOptions:
    """One network; the defaults are DeeperLab's with Xception-71.

    No program was published. The widths are the paper's; the kernels of the decoder are those of a
    third-party program, the heads are separable as in the paper.

    Attributes:
      backbone: the encoder; must have features at stride 4.
      normalization: see `preprocess.normalize`.
      pixel_mean, pixel_deviation: of pixels in [0, 255] by channel, for the normalisation 'given'.
      norm_momentum, norm_epsilon: BatchNorm's, behind the backbone.
      resize: 'corner_aligned' for odd input sizes, 'half_pixel' for even ones.
      aspp_rates: dilations of the ASPP's 3x3 branches.
      aspp_features: channels of the ASPP.
      is_aspp_separable: whether its 3x3 branches are depthwise separable.
      aspp_pooling: 'train_crop' averages over the window of the training crop, 'global' over the
        whole map.
      dropout_rate: dropout after the ASPP, in training.
      low_level_features: channels of the features of stride 4, before space-to-depth.
      fusion: kind of both convolutions of the decoder, see `blocks.make_fusion`.
      fusion_features: their channels, before depth-to-space.
      head_conv: kind of the first convolution of every head.
      head_features: its channels.

    Raises:
      ValueError: a field has a value that it cannot have, or two fields contradict each other.
    """

    backbone: BackboneOptions = BackboneOptions('xception71', 16, endpoints='first')
    normalization: str = 'unit'
    pixel_mean: tuple[float, ...] | None = None
    pixel_deviation: tuple[float, ...] | None = None
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    resize: str = 'corner_aligned'
    aspp_rates: tuple[int, ...] = (6, 12, 18)
    aspp_features: int = 256
    is_aspp_separable: bool = True
    aspp_pooling: str = 'train_crop'
    dropout_rate: float = 0.1
    low_level_features: int = 32
    fusion: str = 'conv3x3'
    fusion_features: int = 4096
    head_conv: str = 'separable7x7'
    head_features: int = 256

    def __post_init__(self) -> None:
        check_choice('resize', self.resize, MODES)
        check_choice('aspp_pooling', self.aspp_pooling, ('train_crop', 'global'))
        for field in ('fusion', 'head_conv'):
            check_choice(field, getattr(self, field), FUSIONS)
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f'model.dropout_rate (={self.dropout_rate}) must lie in [0, 1)')
        if self.backbone.output_stride < 8:
            raise ValueError(
                f'model.output_stride (={self.backbone.output_stride}) must be at least 8: the '
                f'decoder brings the features of stride 4 to it'
            )
        if self.fusion_features % self.block**2:
            raise ValueError(
                f'model.fusion_features (={self.fusion_features}) must be a multiple of '
                f'{self.block**2}, the pixels of stride 4 in one of stride '
                f'{self.backbone.output_stride}'
            )

    @property
    def block(self) -> int:
        """Side of the blocks of space-to-depth: from stride 4 to the backbone's."""
        return self.backbone.output_stride // 4


DEEPERLAB_FIELDS = FlatFields(DeeperLabNetworkOptions)
