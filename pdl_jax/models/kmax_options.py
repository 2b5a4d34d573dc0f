"""The parts of a kMaX-DeepLab as one frozen record, which presets and configurations fill."""

import dataclasses
from typing import Any

from pdl_jax.models.blocks import ACTIVATIONS
from pdl_jax.models.flat_fields import FlatFields
from pdl_jax.models.options import BackboneOptions, check_choice
from pdl_jax.models.pixel_decoder import BLOCKS, RESIZES, DecoderStage

SEMANTIC_BRANCHES = ('decoder', 'head', 'none')


@dataclasses.dataclass(frozen=True)
class KMaXNetworkOptions:
    """One network; the defaults are kMaX-DeepLab's for COCO in DeepLab2.

    Attributes:
      backbone: the pixel encoder.
      normalization: see `preprocess.normalize`.
      pixel_mean, pixel_deviation: of pixels in [0, 255] by channel, for the normalisation 'given'.
      norm_momentum, norm_epsilon: BatchNorm's, behind the backbone.
      resize: 'corner_aligned' for odd input sizes (DeepLab2), 'half_pixel' for even ones, or
        'by_parity' of each map (the PyTorch program).
      decoder_inputs: maps of the backbone that the pixel decoder reads, coarse to fine.
      decoder_blocks: 'axial' or 'bottleneck' for each of its stages.
      decoder_features: widths of its stages, a fourth of their outputs' channels.
      decoder_depths: blocks of its stages.
      transformer_depths: layers of the transformer decoder on each of the coarsest stages.
      num_queries: masks of an image.
      query_features: channels of the queries.
      mask_features: channels of the product of pixels and queries.
      ffn_features: hidden channels of the feed-forward networks.
      num_heads: heads of self-attention.
      transformer_keep_prob: share of images that keep a residual branch of the transformer decoder
        in training.
      semantic_branch: what learns classes of pixels beside the masks, in training only: a 'decoder'
        of Panoptic-DeepLab's semantic branch, a 'head' on the last features, or 'none'.
      semantic_skip_activation: activation of the finer features that this branch reads, '' for
        none. Its coarsest are those that the pixel decoder reads.
      dropout_rate: dropout in the semantic branches, in training.
      has_void_logit: whether the semantic branch has a logit for void pixels.
      num_relaxed_layers: layers of the transformer decoder with a semantic head of their own, for
        ReMaX's ReMask; in training only.

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
    decoder_inputs: tuple[str, ...] = ('last', 'stride16', 'stride8', 'stride4')
    decoder_blocks: tuple[str, ...] = ('axial', 'axial', 'bottleneck', 'bottleneck')
    decoder_features: tuple[int, ...] = (512, 256, 128, 64)
    decoder_depths: tuple[int, ...] = (1, 5, 1, 1)
    transformer_depths: tuple[int, ...] = (2, 2, 2)
    num_queries: int = 128
    query_features: int = 256
    mask_features: int = 128
    ffn_features: int = 2048
    num_heads: int = 8
    transformer_keep_prob: float = 0.8
    semantic_branch: str = 'decoder'
    semantic_skip_activation: str = ''
    dropout_rate: float = 0.1
    has_void_logit: bool = True
    num_relaxed_layers: int = 0

    def __post_init__(self) -> None:
        check_choice('resize', self.resize, RESIZES)
        check_choice('semantic_branch', self.semantic_branch, SEMANTIC_BRANCHES)
        check_choice('semantic_skip_activation', self.semantic_skip_activation, ('', *ACTIVATIONS))
        for block in self.decoder_blocks:
            check_choice('decoder_blocks', block, BLOCKS)
        count = len(self.decoder_inputs)
        for field in ('decoder_blocks', 'decoder_features', 'decoder_depths'):
            value = getattr(self, field)
            if len(value) != count:
                raise ValueError(
                    f'model.{field} (={value!r}) needs a value for each of the {count} '
                    f'model.decoder_inputs (={self.decoder_inputs!r})'
                )
        if not self.decoder_inputs or len(self.transformer_depths) > count:
            raise ValueError(
                f'model.transformer_depths (={self.transformer_depths!r}) may have at most one '
                f'value for each of model.decoder_inputs (={self.decoder_inputs!r}), which must '
                f'not be empty'
            )
        check_query_fields(self)
        if not 0 <= self.num_relaxed_layers <= self.num_layers:
            raise ValueError(
                f'model.num_relaxed_layers (={self.num_relaxed_layers}) must lie in '
                f'[0, {self.num_layers}], the layers of model.transformer_depths'
            )

    @property
    def num_layers(self) -> int:
        """Layers of the transformer decoder."""
        return sum(self.transformer_depths)

    @property
    def stages(self) -> tuple[DecoderStage, ...]:
        """The stages of the pixel decoder."""
        parts = (self.decoder_blocks, self.decoder_features, self.decoder_depths)
        return tuple(DecoderStage(*stage) for stage in zip(*parts, strict=True))


def check_query_fields(options: Any) -> None:
    """Checks the fields that mask transformers share.

    Raises:
      ValueError: names the field and its value.
    """
    for field in ('num_queries', 'query_features', 'mask_features', 'ffn_features', 'num_heads'):
        if getattr(options, field) < 1:
            raise ValueError(f'model.{field} (={getattr(options, field)}) must be positive')
    if options.query_features % (2 * options.num_heads):
        raise ValueError(
            f'model.query_features (={options.query_features}) must be a multiple of twice '
            f'model.num_heads (={options.num_heads})'
        )
    if not 0 <= options.dropout_rate < 1:
        raise ValueError(f'model.dropout_rate (={options.dropout_rate}) must lie in [0, 1)')
    if not 0 < options.transformer_keep_prob <= 1:
        raise ValueError(
            f'model.transformer_keep_prob (={options.transformer_keep_prob}) must lie in (0, 1]'
        )


KMAX_FIELDS = FlatFields(KMaXNetworkOptions)
