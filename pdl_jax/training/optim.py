"""Learning-rate schedule and optimiser."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from pdl_jax.typing import Array, PyTree

OPTIMIZERS = ('adam', 'sgd')


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """How parameters are updated.

    Attributes:
      kind: 'adam' (Panoptic-DeepLab) or 'sgd' with momentum (the semantic DeepLabs).
      learning_rate: peak of the schedule.
      warmup_steps: the rate rises linearly over so many steps.
      poly_power: exponent of the decay to 0 over the whole run.
      momentum: of SGD.
      weight_decay: L2 penalty on convolution kernels, added to their gradients; depthwise kernels, biases and BatchNorm have
        none, as in TF DeepLab.
      adam_b1: decay of the first moment.
      adam_b2: decay of the second moment.
      adam_epsilon: added to the root of the second moment; 1e-7 in Keras.
      clip_norm: gradients are scaled down to this global norm; 0 leaves them.
      ema_decay: of the averaged variables that are evaluated and predicted with; 0 keeps no average.
    """

    kind: str = 'adam'
    learning_rate: float = 5e-4
    warmup_steps: int = 0
    poly_power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 0.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_epsilon: float = 1e-7
    clip_norm: float = 0.0
    ema_decay: float = 0.0


def make_schedule(options: OptimizerOptions, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then polynomial decay that counts from step 0, so the rate drops a little where they meet.

    Source: DeepLab2's trainer: rate * (1 - step / num_steps) ** power, not shifted by the warm-up.
    """
    decay = optax.polynomial_schedule(
        options.learning_rate, 0.0, power=options.poly_power, transition_steps=num_steps
    )

    def schedule(step: Array) -> Array:
        if not options.warmup_steps:
            return decay(step)
        warm = options.learning_rate * step / options.warmup_steps
        return jnp.where(step < options.warmup_steps, warm, decay(step))

    return schedule


def make_optimizer(options: OptimizerOptions, num_steps: int) -> optax.GradientTransformation:
    """Clipping and weight decay where asked for, then the optimiser.

    Raises:
      ValueError: `options.kind` is unknown.
    """
    schedule = make_schedule(options, num_steps)
    if options.kind == 'adam':
        update = optax.adam(
            schedule, b1=options.adam_b1, b2=options.adam_b2, eps=options.adam_epsilon
        )
    elif options.kind == 'sgd':
        update = optax.sgd(schedule, momentum=options.momentum)
    else:
        raise ValueError(f'optimizer.kind (={options.kind!r}) must be one of {OPTIMIZERS}')
    before = []
    if options.clip_norm:
        before.append(optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay:
        before.append(optax.add_decayed_weights(options.weight_decay, mask=_find_dense_kernels))
    return optax.chain(*before, update) if before else update


def _find_dense_kernels(params: PyTree) -> PyTree:
    """True for kernels [k, k, C, D] with C > 1; depthwise ones have C = 1."""
    return jax.tree.map(lambda x: x.ndim == 4 and x.shape[2] > 1, params)
