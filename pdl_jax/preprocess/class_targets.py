"""Training targets of classifiers: one class for each image, smoothed, and mixed between images."""

import dataclasses

import jax
import jax.numpy as jnp

from pdl_jax.ops.image_classes import find_classes
from pdl_jax.typing import Array, LabelFormat, check_not_negative, check_share


@dataclasses.dataclass(frozen=True)
class ClassTargetOptions:
    """Rules for the targets of a classifier.

    Attributes:
      label_smoothing: share of the target probability that all classes have in equal parts.
      mixup_alpha: both parameters of the Beta distribution that the share of the other image is
        drawn from, see `mix_images`; 0 for none.
    """

    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_share('targets', self, 'label_smoothing')
        check_not_negative('targets', self, 'mixup_alpha')


def make_class_targets(
    panoptic: Array, *, label_format: LabelFormat, options: ClassTargetOptions
) -> Array:
    """Makes target probabilities f32[B, C] of images, with zeros for images of void alone.

    Label smoothing makes (1 - e) one_hot + e / K of them for the K classes other than void.

    Args:
      panoptic: i32[B, H, W], label maps, see `ops.image_classes.find_classes`.
      label_format: encoding of the label maps.
      options: the smoothing.

    Source: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    classes = find_classes(panoptic, label_format=label_format)
    valid = jnp.zeros(label_format.num_classes).at[jnp.array(label_format.valid_classes)].set(1.0)
    smooth = options.label_smoothing
    targets = (1 - smooth) * jax.nn.one_hot(classes, label_format.num_classes)
    targets = targets + smooth * valid / jnp.sum(valid)
    return jnp.where((classes >= 0)[:, None], targets, 0.0)


def mix_images(key: Array, images: Array, targets: Array, *, alpha: float) -> tuple[Array, Array]:
    """Mixes every image of a batch, and its targets, with those of the next one.

    One share, drawn from Beta(alpha, alpha), holds for the whole batch.

    Args:
      key: a random key.
      images: f32[B, H, W, C], normalised.
      targets: f32[B, C], probabilities.
      alpha: both parameters of the distribution.

    Returns:
      Images and targets as they were given, mixed.

    Source: Zhang et al., mixup, ICLR 2018.
    """
    share = jax.random.beta(key, alpha, alpha)

    def mix(x: Array) -> Array:
        return share * x + (1 - share) * jnp.roll(x, 1, axis=0)

    return mix(images), mix(targets)
