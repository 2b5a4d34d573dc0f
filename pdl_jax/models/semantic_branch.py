"""The semantic branch that mask transformers learn beside their masks, in training only."""

from collections.abc import Mapping

from pdl_jax.models.blocks import LayerOptions
from pdl_jax.models.decoder import Decoder
from pdl_jax.models.heads import Head
from pdl_jax.models.options import SEMANTIC_BRANCH, ModelOptions
from pdl_jax.typing import Array

ASPP_RATES = (6, 12, 18)


def predict_semantic(
    features: Mapping[str, Array],
    outputs: int,
    options: LayerOptions,
    *,
    resize: str,
    dropout_rate: float,
    has_decoder: bool,
    train: bool,
) -> Array:
    """Runs Panoptic-DeepLab's semantic branch, as children of the module being called.

    Args:
      features: the backbone's: 'last' and, for the decoder, 'stride8' and 'stride4'.
      outputs: logits.
      options: options of all layers, whose activation the branch has.
      resize: see `ops.resize`.
      dropout_rate: dropout after the decoder's context module, in training.
      has_decoder: whether the head is on the decoder's features, or directly on the last ones.
      train: see `blocks.batch_norm`.

    Returns:
      f32[B, h, w, outputs] at stride 4, or at the stride of the last features.
    """
    branch = SEMANTIC_BRANCH
    x = features['last']
    if has_decoder:
        network = ModelOptions(aspp_rates=ASPP_RATES, dropout_rate=dropout_rate, resize=resize)
        decoder = Decoder(branch, network, None, options, name='semantic_decoder')
        x = decoder(dict(features), train=train)
    ((_, kind),) = branch.heads
    return Head(kind, branch.head_features, outputs, options, name='semantic_head')(x, train=train)
