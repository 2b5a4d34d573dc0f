"""The pure train step: arrays in, arrays out, no I/O."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from pdl_jax.losses.panoptic_deeplab import LossOptions, panoptic_loss
from pdl_jax.models.deeplab import PanopticDeepLab
from pdl_jax.ops.placement import map_per_device, replicate, split_rows
from pdl_jax.preprocess.augment import (
    AugmentOptions,
    random_window,
    sample_image,
    sample_labels,
)
from pdl_jax.preprocess.targets import TargetOptions, make_targets
from pdl_jax.training.gradient_accumulation import accumulate_gradients
from pdl_jax.training.rematerialization import rematerialize
from pdl_jax.training.state import TrainState
from pdl_jax.typing import Array, LabelFormat


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Everything a step depends on apart from arrays; built by `config.make_step_options`."""

    label_format: LabelFormat
    augment: AugmentOptions = AugmentOptions((513, 513))
    targets: TargetOptions = TargetOptions()
    loss: LossOptions = LossOptions()
    ema_decay: float = 0.0
    seed: int = 0
    accumulation_steps: int = 1
    remat: tuple[str, ...] = ()


def init_state(
    model: PanopticDeepLab, optimizer: optax.GradientTransformation, options: StepOptions
) -> TrainState:
    """Draws initial variables; a function of the seed alone, so jit and eval_shape take it."""
    image = jnp.zeros((1, *options.augment.crop_size, 3))
    variables = model.init(jax.random.key(options.seed), image)
    params = variables['params']
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(params),
        # A copy: the state is donated, and one buffer cannot be donated twice.
        ema_variables=jax.tree.map(jnp.copy, variables) if options.ema_decay else None,
    )


def make_training_samples(
    batch: dict[str, Array], step: Array, options: StepOptions
) -> tuple[Array, dict[str, Array]]:
    """Augments a batch and makes its targets.

    The draws depend on the seed, the step and the position in the global batch only, so a resumed run or another mesh
    repeats them.

    Returns:
      The images f32[B, H, W, 3] and a batch of targets; under jit those that a semantic network leaves unused cost nothing.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), step)
    keys = jax.random.split(key, batch['image'].shape[0])

    def prepare(key, image, panoptic, size):
        window = random_window(key, size, options.augment)
        image = sample_image(image, size, window, normalization=options.augment.normalization)
        void = options.label_format.void_label
        panoptic = sample_labels(panoptic, size, window, fill=void)
        targets = make_targets(panoptic, label_format=options.label_format, options=options.targets)
        return image, targets

    # Each device by itself: some of it takes as many passes as an image has instances.
    samples = map_per_device(jax.vmap(prepare))(
        keys, batch['image'], batch['panoptic'], batch['size']
    )
    return split_rows(samples)


def make_train_step(
    model: PanopticDeepLab,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Array], Array],
    options: StepOptions,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """Makes the step (state, batch) -> (state, scalars); to be jitted with the state donated."""

    def train_step(state, batch):
        samples = make_training_samples(batch, state.step, options)
        dropout_key = jax.random.fold_in(jax.random.key(options.seed + 1), state.step)

        def loss_of(params, batch_stats, samples, dropout_key):
            images, targets = samples
            with rematerialize(options.remat):
                outputs, updates = model.apply(
                    {'params': replicate(params), 'batch_stats': batch_stats},
                    images,
                    train=True,
                    rngs={'dropout': dropout_key},
                    mutable=['batch_stats'],
                )
            outputs = {
                **outputs,
                **split_rows(model.upsample_instances(outputs, images.shape[1:3])),
            }
            loss, terms = panoptic_loss(
                outputs,
                targets,
                ignore_label=options.label_format.ignore_label,
                options=options.loss,
                resize=model.model.resize,
            )
            # Frozen BatchNorm updates nothing and then leaves the collection out.
            return loss, (terms, updates.get('batch_stats', batch_stats))

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        if options.accumulation_steps > 1:
            gradient = accumulate_gradients(gradient, options.accumulation_steps)
        (loss, (terms, batch_stats)), gradients = gradient(
            state.params, state.batch_stats, samples, dropout_key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_variables = state.ema_variables
        if ema_variables is not None:
            # The average of the first steps is that of few variables, not one that the initial values dominate.
            decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
            variables = {'params': params, 'batch_stats': batch_stats}
            ema_variables = optax.incremental_update(variables, ema_variables, 1 - decay)
        scalars = {
            'loss': loss,
            **{f'loss_{key}': value for key, value in terms.items()},
            'learning_rate': schedule(state.step),
            # Else XLA would share the squares with the optimizer, in memory.
            'gradient_norm': optax.global_norm(jax.lax.optimization_barrier(gradients)),
        }
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_variables=ema_variables,
        )
        return state, scalars

    return train_step
