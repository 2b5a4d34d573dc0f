"""The parts of a network as frozen records that presets fill and a configuration overrides."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pdl_jax.models.adaptive_computation import KINDS
from pdl_jax.models.blocks import FUSIONS
from pdl_jax.ops.resize import MODES
from pdl_jax.typing import suggest

HEADS = ('none', *FUSIONS)

_CHOICES = {
    'resize': MODES,
    'context': ('aspp', 'dense_prediction_cell', 'projection'),
    'aspp_pooling': ('train_crop', 'train_grid', 'global'),
    'aspp_pool_layer': ('norm', 'bias', 'plain'),
    'decoder': ('deeplab', 'lr_aspp', 'spgnet', 'sum_aspp', 'classifier'),
    'guidance': ('logits', 'softmax'),
    'lr_aspp_gate': ('hard_sigmoid', 'sigmoid'),
    'fusion': FUSIONS,
    'offset_unit': ('map', 'image'),
}


def check_choice(field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Checks a field that has only a few valid values.

    Raises:
      ValueError: it has another value.
    """
    if value not in choices:
        raise ValueError(f'model.{field} (={value!r}) must be one of {list(choices)}')


@dataclasses.dataclass(frozen=True)
class BackboneOptions:
    """A backbone and how it is run.

    Attributes:
      name: a name of `backbones.BACKBONES`, or 'module:function' of the user's own.
      output_stride: stride of its last features.
      width_multiplier: factor of its channels.
      padding: 'symmetric', or 'same' for weights of TF-slim and Keras.
      norm_momentum, norm_epsilon: BatchNorm's.
      stem, stride_convention, multi_grid, endpoints: attributes that some families have; None keeps
        the family's own. `endpoints` chooses the tensors that the decoder reads: 'outputs' of
        blocks, the same 'unactivated', the 'inner' layers that TF DeepLab reads, or the
        'last_outputs', which Model Garden reads of MobileNetV3.
      activation: 'relu' or 'gelu', for ResNets.
      stem_padding: 'same' or 'fixed', for ConvNeXts.
      squeeze_excite_gate: 'hard_sigmoid' (TF-slim, torchvision), 'rounded_hard_sigmoid' (Model
        Garden) or 'sigmoid' (DeepLab2), for families with squeeze-and-excite; adds it to ResNets.
      upsampling: between HRNet's branches, 'bilinear' or, in its ImageNet classifiers, 'nearest'.
      drop_path_keep_prob: share of residual branches that training keeps in the last stage, for
        families with stochastic depth.
      drop_path_schedule: the share in the other stages, see `blocks.find_keep_prob`.
      adaptive_computation: '' (none), or units of ResNets that halt per image ('act') or per
        position ('sact'), see `models.adaptive_computation`.
      min_active_share: with 'sact', an image halts at inference in a stage once a smaller share of
        its positions would go on; 0 lets every position decide.
      architecture: the blocks of 'mobile_blocks', see `mobile_blocks.parse_architecture`.
    """

    name: str = 'resnet50'
    output_stride: int = 32
    width_multiplier: float = 1.0
    padding: str = 'symmetric'
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    stem: str | None = None
    stride_convention: str | None = None
    multi_grid: tuple[int, ...] | None = None
    endpoints: str | None = None
    activation: str | None = None
    stem_padding: str | None = None
    squeeze_excite_gate: str | None = None
    upsampling: str | None = None
    drop_path_keep_prob: float | None = None
    drop_path_schedule: str | None = None
    adaptive_computation: str = ''
    min_active_share: float = 0.0
    architecture: str | None = None

    def __post_init__(self) -> None:
        check_choice('output_stride', self.output_stride, (4, 8, 16, 32))
        check_choice('backbone_padding', self.padding, ('symmetric', 'same'))
        check_choice('adaptive_computation', self.adaptive_computation, KINDS)
        if not 0 <= self.min_active_share < 1:
            raise ValueError(
                f'model.min_active_share (={self.min_active_share}) must lie in [0, 1)'
            )
        if not self.width_multiplier > 0:
            raise ValueError(f'model.width_multiplier (={self.width_multiplier}) must be positive')


@dataclasses.dataclass(frozen=True)
class BranchOptions:
    """The decoder and the heads of one branch.

    Attributes:
      features: channels after each fusion with a skip.
      low_level_features: channels of the projected skips, one entry per skip.
      aspp_features: channels of the context module.
      head_features: channels before the logits of each head.
      heads: the convolutions of each head before its last, 'none' or a fusion, by its output.
      shared_head: convolutions before all heads, likewise.
    """

    features: int
    low_level_features: tuple[int, ...]
    aspp_features: int
    head_features: int
    heads: tuple[tuple[str, str], ...]
    shared_head: str = 'none'

    def __post_init__(self) -> None:
        check_choice('shared_head', self.shared_head, HEADS)
        for output, head in self.heads:
            check_choice(f'{output}_head', head, HEADS)


SEMANTIC_BRANCH = BranchOptions(256, (64, 32), 256, 256, (('semantic', 'separable5x5'),))
INSTANCE_BRANCH = BranchOptions(
    128, (32, 16), 256, 32, (('center', 'separable5x5'), ('offset', 'separable5x5'))
)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """One network; the defaults are DeepLab2's Panoptic-DeepLab with ResNet-50, output stride 32.

    The programs that this one is compatible with differ in all of these; `presets.PRESETS` has
    their values. `make_model_options` builds it from the flat fields of a configuration.

    Attributes:
      backbone: the backbone.
      normalization: how pixels become network input, see `preprocess.normalize`.
      pixel_mean, pixel_deviation: of pixels in [0, 255] by channel, for the normalisation 'given'.
      norm_momentum, norm_epsilon: BatchNorm's, behind the backbone.
      resize: 'corner_aligned' for odd input sizes (k * stride + 1), 'half_pixel' for even ones.
      context: 'aspp' or 'dense_prediction_cell', the module that widens the field of view, or
        'projection', which only changes the channels of features that attention has widened.
      cell: the branches of 'dense_prediction_cell' as JSON, see
        `dense_prediction_cell.parse_cell`; '' is the best one found on Cityscapes.
      aspp_rates: dilations of the 3x3 branches; () for none.
      is_aspp_separable: whether they are depthwise separable (the paper, detectron2's DSConv) or
        full (DeepLab2).
      has_aspp_depthwise_norm: whether BatchNorm and activation follow the depthwise convolution of
        separable branches; not in Model Garden.
      aspp_pooling: 'train_crop' averages over the window of the training crop, at every pixel where
        it fits, 'train_grid' over such windows side by side (Model Garden), 'global' over the whole
        map.
      aspp_pool_layer: what follows the pooling's 1x1 convolution: BatchNorm ('norm'), a 'bias', or
        nothing ('plain').
      dropout_rate: dropout after the context module, in training.
      decoder: 'deeplab', 'lr_aspp', 'spgnet' or 'sum_aspp' (these three semantic only), or
        'classifier' (whole images, for ImageNet weights). 'sum_aspp' is that of DeepLab v1 and v2,
        see `sum_aspp.SumASPP`; its hidden layers have `semantic_aspp_features` channels.
      skip_strides: strides of the features that the decoder fuses, coarse to fine; () for
        DeepLabv3, which fuses none.
      is_skip_first: whether a skip is concatenated before the decoder's own features (detectron2)
        or behind them.
      fusion: the convolutions after each concatenation, see `blocks.make_fusion`.
      has_norm_bias: whether projected skips, separable fusions and separable heads have a bias
        although BatchNorm follows (Model Garden).
      offset_unit: offsets are in pixels of the network's 'map' and scaled when it is resized, or of
        the 'image' and resized as they are (Model Garden).
      lr_aspp_gate: 'hard_sigmoid' of a convolution with bias (TensorFlow) or 'sigmoid' of one
        without (torchvision).
      num_stages: encoder-decoders in a row of 'spgnet', see `spgnet.SPGStages`; their width is
        `semantic_features`.
      guidance: what the gates between them see, 'logits' or 'softmax'.
      sum_aspp_kernel_px: side of the dilated kernels of 'sum_aspp' in pixels.
      is_sum_aspp_pooled: whether 'sum_aspp' averages over 3x3 pixels first (LargeFOV).
      input_scales: scales of the image whose logits are fused by their maximum, in training too;
        the first is 1. Only with 'sum_aspp'.
      semantic: the semantic branch.
      instance: the instance branch; None makes the network a semantic one.

    Raises:
      ValueError: a field has a value that it cannot have, or two fields contradict each other.
    """

    backbone: BackboneOptions = BackboneOptions()
    normalization: str = 'unit'
    pixel_mean: tuple[float, ...] | None = None
    pixel_deviation: tuple[float, ...] | None = None
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    resize: str = 'corner_aligned'
    context: str = 'aspp'
    cell: str = ''
    aspp_rates: tuple[int, ...] = (3, 6, 9)
    is_aspp_separable: bool = False
    has_aspp_depthwise_norm: bool = True
    aspp_pooling: str = 'train_crop'
    aspp_pool_layer: str = 'norm'
    dropout_rate: float = 0.1
    decoder: str = 'deeplab'
    skip_strides: tuple[int, ...] = (8, 4)
    is_skip_first: bool = False
    fusion: str = 'separable5x5'
    has_norm_bias: bool = False
    offset_unit: str = 'map'
    lr_aspp_gate: str = 'hard_sigmoid'
    num_stages: int = 2
    guidance: str = 'logits'
    sum_aspp_kernel_px: int = 3
    is_sum_aspp_pooled: bool = False
    input_scales: tuple[float, ...] = (1.0,)
    semantic: BranchOptions = SEMANTIC_BRANCH
    instance: BranchOptions | None = INSTANCE_BRANCH

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            check_choice(field, getattr(self, field), choices)
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f'model.dropout_rate (={self.dropout_rate}) must lie in [0, 1)')
        if self.decoder == 'deeplab':
            self._check_widths('semantic', self.semantic)
            self._check_widths('instance', self.instance)
        elif self.instance is not None:
            raise ValueError(
                f'model.decoder {self.decoder!r} has no instance branch: set '
                f'model.has_instances=False'
            )
        if self.decoder == 'spgnet':
            self._check_stages()
        if self.input_scales != (1.0,) and (
            self.decoder != 'sum_aspp' or self.input_scales[:1] != (1.0,)
        ):
            raise ValueError(
                f'model.input_scales (={self.input_scales}) must begin with 1.0, and needs '
                f"model.decoder='sum_aspp', not {self.decoder!r}"
            )

    def _check_stages(self) -> None:
        if self.num_stages < 1 or self.semantic.features % 4:
            raise ValueError(
                f'model.num_stages (={self.num_stages}) must be positive and '
                f'model.semantic_features (={self.semantic.features}) a multiple of 4'
            )
        if self.backbone.output_stride != 32:
            raise ValueError(
                f'model.output_stride (={self.backbone.output_stride}) must be 32: the decoders of '
                f"'spgnet' read all scales down to it"
            )

    def _check_widths(self, name: str, branch: BranchOptions | None) -> None:
        if branch is not None and len(branch.low_level_features) != len(self.skip_strides):
            raise ValueError(
                f'model.{name}_low_level_features (={branch.low_level_features}) needs one width '
                f'for each of model.skip_strides (={self.skip_strides})'
            )

    @property
    def is_semantic(self) -> bool:
        """Whether it labels pixels with classes only."""
        return self.decoder != 'classifier' and self.instance is None


# Fields of `config.model` by the fields of the parts; those of ModelOptions itself keep their
# names.
BACKBONE_FIELDS = {
    'backbone': 'name',
    'output_stride': 'output_stride',
    'width_multiplier': 'width_multiplier',
    'backbone_padding': 'padding',
    'backbone_norm_momentum': 'norm_momentum',
    'backbone_norm_epsilon': 'norm_epsilon',
    'stem': 'stem',
    'stride_convention': 'stride_convention',
    'multi_grid': 'multi_grid',
    'endpoints': 'endpoints',
    'backbone_activation': 'activation',
    'stem_padding': 'stem_padding',
    'squeeze_excite_gate': 'squeeze_excite_gate',
    'upsampling': 'upsampling',
    'drop_path_keep_prob': 'drop_path_keep_prob',
    'drop_path_schedule': 'drop_path_schedule',
    'adaptive_computation': 'adaptive_computation',
    'min_active_share': 'min_active_share',
    'architecture': 'architecture',
}
_PARTS = ('backbone', 'semantic', 'instance')
_OWN_FIELDS = tuple(f.name for f in dataclasses.fields(ModelOptions) if f.name not in _PARTS)
_WIDTHS = tuple(f.name for f in dataclasses.fields(BranchOptions) if f.name != 'heads')


def make_model_options(fields: Mapping[str, Any]) -> ModelOptions:
    """Builds options from flat fields, as presets and `config.model` have them.

    Args:
      fields: values by the names of `list_fields`; what is left out has the default.

    Raises:
      ValueError: a name is unknown, or see `ModelOptions`.
    """
    check_fields(fields, FIELD_TYPES)
    own = {key: fields[key] for key in _OWN_FIELDS if key in fields}
    instance = _make_branch('instance', INSTANCE_BRANCH, fields)
    return ModelOptions(
        backbone=make_backbone_options(fields),
        semantic=_make_branch('semantic', SEMANTIC_BRANCH, fields),
        instance=instance if fields.get('has_instances', True) else None,
        **own,
    )


def list_fields(options: ModelOptions) -> dict[str, Any]:
    """Lists the flat fields that `make_model_options` makes the same options from."""
    fields = list_backbone_fields(options.backbone)
    fields |= {key: getattr(options, key) for key in _OWN_FIELDS}
    fields['has_instances'] = options.instance is not None
    for name, branch in (('semantic', options.semantic), ('instance', options.instance)):
        if branch is not None:
            fields |= {f'{name}_{width}': getattr(branch, width) for width in _WIDTHS}
            fields |= {f'{output}_head': head for output, head in branch.heads}
    return fields


def _make_branch(name: str, default: BranchOptions, fields: Mapping[str, Any]) -> BranchOptions:
    keys = {width: f'{name}_{width}' for width in _WIDTHS}
    widths = {width: fields[key] for width, key in keys.items() if key in fields}
    heads = tuple((output, fields.get(f'{output}_head', head)) for output, head in default.heads)
    return dataclasses.replace(default, **widths, heads=heads)


def make_backbone_options(fields: Mapping[str, Any]) -> BackboneOptions:
    """Builds the options of a backbone from the flat fields of a network; others are left alone."""
    # The backbone's BatchNorm is that of the rest unless it is told apart.
    shared = ('norm_momentum', 'norm_epsilon')
    backbone = {key: fields[key] for key in shared if key in fields}
    backbone |= {part: fields[key] for key, part in BACKBONE_FIELDS.items() if key in fields}
    return BackboneOptions(**backbone)


def list_backbone_fields(options: BackboneOptions) -> dict[str, Any]:
    """Lists the flat fields that `make_backbone_options` makes the same options from."""
    return {key: getattr(options, part) for key, part in BACKBONE_FIELDS.items()}


def find_field_types(hints: Mapping[str, Any]) -> dict[str, type]:
    """Finds the type of each annotated field; of optional ones the type beside None."""
    types = {}
    for key, hint in hints.items():
        alternatives = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        is_optional = type(None) in typing.get_args(hint)
        kind = alternatives[0] if is_optional else hint
        types[key] = typing.get_origin(kind) or kind
    return types


def list_backbone_types() -> dict[str, Any]:
    """Lists the annotations of the flat fields of a backbone."""
    hints = typing.get_type_hints(BackboneOptions)
    return {key: hints[part] for key, part in BACKBONE_FIELDS.items()}


def check_fields(fields: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Checks the names and types of flat fields.

    Raises:
      ValueError: names the first field that is unknown or of another type.
    """
    for key, value in fields.items():
        if key not in types:
            raise ValueError(
                f'model.{key} is unknown; {suggest(key, types)}there are {", ".join(types)}'
            )
        kind = types[key]
        allowed = (int, float) if kind is float else kind
        # None stands for the family's own value; bool is an int to Python.
        if value is not None and (
            not isinstance(value, allowed) or isinstance(value, bool) != (kind is bool)
        ):
            raise ValueError(f'model.{key} (={value!r}) must be of type {kind.__name__}')


def _find_types() -> dict[str, type]:
    own, branch = map(typing.get_type_hints, (ModelOptions, BranchOptions))
    hints = list_backbone_types()
    hints |= {key: own[key] for key in _OWN_FIELDS}
    hints['has_instances'] = bool
    for name, default in (('semantic', SEMANTIC_BRANCH), ('instance', INSTANCE_BRANCH)):
        hints |= {f'{name}_{width}': branch[width] for width in _WIDTHS}
        hints |= {f'{output}_head': str for output, _ in default.heads}
    return find_field_types(hints)


FIELD_TYPES: Mapping[str, type] = _find_types()
