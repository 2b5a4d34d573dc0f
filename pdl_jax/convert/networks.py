"""The networks that weights are converted for, and how many classes their logits have."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn

from pdl_jax.models.any_network import make_module
from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.models.deeperlab_options import DeeperLabNetworkOptions
from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.models.options import ModelOptions

# Paths of the variables whose last dimension is the number of classes, and of the one of mask
# transformers, which have a last logit for queries without a segment.
_LOGITS = (
    'params/semantic_head/predict/kernel',
    'params/semantic_decoder/predict_last/kernel',
    'params/semantic_decoder/branch_1/predict/kernel',
)
_MASK_LOGITS = 'params/predictor/class_logits/kernel'


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that a file may hold.

    Attributes:
      name: the preset; 'imagenet/...' for a backbone alone.
      options: the network's options.
    """

    name: str
    options: AnyNetworkOptions

    @property
    def is_classifier(self) -> bool:
        """Whether it classifies whole images, so that a backbone is all that is wanted of it."""
        return isinstance(self.options, ModelOptions) and self.options.decoder == 'classifier'

    @property
    def is_semantic(self) -> bool:
        """Whether it labels pixels with classes only."""
        return isinstance(self.options, ModelOptions) and self.options.is_semantic

    @property
    def counts_void(self) -> bool:
        """Whether void is one of the classes that it counts, if the dataset counts it."""
        return isinstance(self.options, ModelOptions | DeeperLabNetworkOptions)

    def count_classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Reads the number of classes from the shapes of variables by path; 0 if unknown."""
        paths, excess = (_LOGITS, 0) if self.counts_void else ((_MASK_LOGITS,), 1)
        found = [shapes[path] for path in paths if path in shapes]
        return found[0][-1] - excess if found and len(found[0]) == 4 else 0

    def make_module(self, num_classes: int) -> nn.Module:
        """Makes the network; its backbone for 0 classes."""
        if not num_classes:
            return make_model_backbone(self.options)
        return make_module(num_classes, self.options)
