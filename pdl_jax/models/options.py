"""What a network is made of: one flat, typed record that presets fill and a configuration overrides."""

import dataclasses

from pdl_jax.models.blocks import FUSIONS
from pdl_jax.ops.resize import MODES

HEADS = ('none', *FUSIONS)

_CHOICES = {
    'output_stride': (4, 8, 16, 32),
    'backbone_padding': ('symmetric', 'same'),
    'resize': MODES,
    'context': ('aspp', 'dense_prediction_cell'),
    'aspp_pooling': ('train_crop', 'global'),
    'aspp_pool_layer': ('norm', 'bias', 'plain'),
    'decoder': ('deeplab', 'lr_aspp', 'classifier'),
    'lr_aspp_gate': ('hard_sigmoid', 'sigmoid'),
    'fusion': FUSIONS,
    'semantic_head': HEADS,
    'center_head': HEADS,
    'offset_head': HEADS,
}


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """One network; the defaults are Panoptic-DeepLab with ResNet-50 at output stride 32 as DeepLab2 builds it.

    The programs that this one is compatible with differ in all of these; `presets.PRESETS` says how.

    Attributes:
      backbone: a name of `backbones.BACKBONES`.
      output_stride: of the backbone's last features.
      width_multiplier: of the backbone's channels.
      stem, stride_dialect, multi_grid, endpoints: of the backbone, where its family has them; None as the family has it.
        `endpoints` says which tensors the decoder reads: 'outputs' of blocks, or the 'inner' layers that TF DeepLab reads.
      squeeze_excite_gate: 'hard_sigmoid' (TF-slim, torchvision) or 'sigmoid' (DeepLab2), where the family has it.
      upsampling: between HRNet's branches, 'bilinear' or, in its ImageNet classifiers, 'nearest'.
      drop_path_keep_prob: share of residual branches that training keeps in the last stage, where the family drops any.

      normalization: of pixels, see `preprocess.normalize`.
      norm_momentum, norm_epsilon: of BatchNorm.
      backbone_norm_momentum, backbone_norm_epsilon: of the backbone's; None as in the rest.
      backbone_padding: 'symmetric', or 'same' for weights of TF-slim and Keras.
      resize: 'corner_aligned' for odd input sizes (k * stride + 1), 'half_pixel' for even ones.

      context: 'aspp' or 'dense_prediction_cell', what enlarges the field of view.
      aspp_rates: dilations of the 3x3 branches; () for none.
      is_aspp_separable: depthwise-separable 3x3 branches (the paper, detectron2's DSConv) instead of full ones (DeepLab2).
      aspp_pooling: 'train_crop' averages over the window of the training crop, 'global' over the whole map.
      aspp_pool_layer: what follows the pooling's 1x1 convolution: BatchNorm ('norm'), a 'bias', or nothing ('plain').
      dropout_rate: after the context module, in training.

      decoder: 'deeplab', 'lr_aspp' (semantic only) or 'classifier' (whole images, for ImageNet weights).
      skip_strides: of the features that the decoder joins, coarse to fine; () for DeepLabv3, which joins none.
      is_skip_first: whether a joined feature comes before the decoder's own (detectron2) or behind it.
      fusion: the convolutions after each join, see `blocks.make_fusion`.
      lr_aspp_gate: 'hard_sigmoid' of a convolution with bias (TensorFlow) or 'sigmoid' of one without (torchvision).

      semantic_features: channels after each join; semantic_low_level_features: of the projected skips, one each;
        semantic_aspp_features: of the context module; semantic_head: convolutions before the last, 'none' or a fusion;
        semantic_head_features: channels before the logits.
      has_instances: whether there is an instance branch; without it the model is a semantic one.
      instance_features, instance_low_level_features, instance_aspp_features, instance_head_features: of that branch.
      center_head, offset_head: its heads' convolutions.

    Raises:
      ValueError: a field has a value that it cannot have, or two fields contradict each other.
    """

    backbone: str = 'resnet50'
    output_stride: int = 32
    width_multiplier: float = 1.0
    stem: str | None = None
    stride_dialect: str | None = None
    multi_grid: tuple[int, ...] | None = None
    endpoints: str | None = None
    squeeze_excite_gate: str | None = None
    upsampling: str | None = None
    drop_path_keep_prob: float | None = None

    normalization: str = 'unit'
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    backbone_norm_momentum: float | None = None
    backbone_norm_epsilon: float | None = None
    backbone_padding: str = 'symmetric'
    resize: str = 'corner_aligned'

    context: str = 'aspp'
    aspp_rates: tuple[int, ...] = (3, 6, 9)
    is_aspp_separable: bool = False
    aspp_pooling: str = 'train_crop'
    aspp_pool_layer: str = 'norm'
    dropout_rate: float = 0.1

    decoder: str = 'deeplab'
    skip_strides: tuple[int, ...] = (8, 4)
    is_skip_first: bool = False
    fusion: str = 'separable5x5'
    lr_aspp_gate: str = 'hard_sigmoid'

    semantic_features: int = 256
    semantic_low_level_features: tuple[int, ...] = (64, 32)
    semantic_aspp_features: int = 256
    semantic_head: str = 'separable5x5'
    semantic_head_features: int = 256

    has_instances: bool = True
    instance_features: int = 128
    instance_low_level_features: tuple[int, ...] = (32, 16)
    instance_aspp_features: int = 256
    instance_head_features: int = 32
    center_head: str = 'separable5x5'
    offset_head: str = 'separable5x5'

    def __post_init__(self):
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(
                    f'model.{field} (={getattr(self, field)!r}) must be one of {list(choices)}'
                )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f'model.dropout_rate (={self.dropout_rate}) must lie in [0, 1)')
        if not self.width_multiplier > 0:
            raise ValueError(f'model.width_multiplier (={self.width_multiplier}) must be positive')
        if self.decoder != 'deeplab' and self.has_instances:
            raise ValueError(
                f'model.decoder {self.decoder!r} has no instance branch: set model.has_instances=False'
            )
        branches = ['semantic', 'instance'] if self.has_instances else ['semantic']
        for branch in branches if self.decoder == 'deeplab' else ():
            widths = getattr(self, f'{branch}_low_level_features')
            if len(widths) != len(self.skip_strides):
                raise ValueError(
                    f'model.{branch}_low_level_features (={widths}) needs one width for each of model.skip_strides '
                    f'(={self.skip_strides})'
                )

    @property
    def is_semantic(self) -> bool:
        """Whether it labels pixels with classes only."""
        return self.decoder != 'classifier' and not self.has_instances
