"""The pure train step: arrays in, arrays out, no I/O."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from pdl_jax.losses.distillation import DistillationOptions
from pdl_jax.ops.placement import map_per_device, replicate, split_rows
from pdl_jax.preprocess import copy_paste
from pdl_jax.preprocess.augment import AugmentOptions, random_window, sample_image, sample_labels
from pdl_jax.preprocess.photometric import distort_image
from pdl_jax.runtime.own_code import find_own_code
from pdl_jax.systems.distillation import Distillation
from pdl_jax.systems.system import Samples, System
from pdl_jax.training.gradient_accumulation import Gradient, accumulate_gradients
from pdl_jax.training.rematerialization import rematerialize
from pdl_jax.training.state import TrainState
from pdl_jax.typing import Array, LabelFormat, PyTree

# `fold_in` of a sample's key by these; `preprocess` has 4 to 7, functions of the user's the draws
# from the last one on.
_COPY_PASTE_DRAW = 8
_FIRST_OWN_DRAW = 16
# Image, label map and valid size.
_Canvas = tuple[Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Everything a step depends on besides the system and the optimiser.

    Attributes:
      augment: how samples become crops.
      ema_decay: decay of the averaged variables; 0 keeps none.
      seed: seed of initial variables, augmentation and dropout.
      accumulation_steps: parts of a batch whose gradients are computed one after the other.
      remat: regexes of modules whose inside is recomputed in the backward pass.
      distill: what is learnt from a teacher.
    """

    augment: AugmentOptions = AugmentOptions((513, 513))
    ema_decay: float = 0.0
    seed: int = 0
    accumulation_steps: int = 1
    remat: tuple[str, ...] = ()
    distill: DistillationOptions = DistillationOptions()


def init_state(
    system: System, optimizer: optax.GradientTransformation, options: StepOptions
) -> TrainState:
    """Draws the initial state; a function of the seed alone, so jit and eval_shape take it."""
    variables = system.init(jax.random.key(options.seed))
    params = variables['params']
    variables = {'params': params, 'batch_stats': variables.get('batch_stats', {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(params),
        # A copy: the state is donated, and one buffer cannot be donated twice.
        ema_variables=jax.tree.map(jnp.copy, variables) if options.ema_decay else None,
    )


def make_training_samples(
    batch: dict[str, Array], step: Array, *, label_format: LabelFormat, options: StepOptions
) -> Samples:
    """Augments a batch.

    The draws depend on the seed, the step and the position in the global batch only, so a resumed
    run or another mesh repeats them.

    Args:
      batch: 'image' u8[B, H, W, 3], 'panoptic' i32[B, H, W] and 'size' i32[B, 2] on a canvas.
      step: i32[], steps done before.
      label_format: encoding of the label maps; void outside of the image.
      options: seed and augmentation.
    """
    key = jax.random.fold_in(jax.random.key(options.seed), step)
    keys = jax.random.split(key, batch['image'].shape[0])
    augment = options.augment
    void_label = label_format.void_label

    def make_sample(key: Array, canvas: _Canvas, other: _Canvas | None) -> Samples:
        sample = _crop(key, canvas, augment, fill=void_label)
        if other is not None:
            crop_key, paste_key = jax.random.split(jax.random.fold_in(key, _COPY_PASTE_DRAW))
            pasted = _crop(crop_key, other, augment.for_pasted, fill=copy_paste.PADDING)
            sample = copy_paste.paste_segments(
                paste_key,
                sample,
                pasted,
                label_format=label_format,
                probability=augment.copy_paste_probability,
            )
        return augment_further(key, Samples(*sample), augment.extra, void_label=void_label)

    canvases, others = (batch['image'], batch['panoptic'], batch['size']), None
    if augment.copy_paste_probability:
        # An image is pasted over the next one of the global batch, whatever the mesh: each device
        # sends its last one to the next device.
        others = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), canvases)
    samples = map_per_device(jax.vmap(make_sample))(keys, canvases, others)
    return split_rows(samples)


def _crop(key: Array, canvas: _Canvas, options: AugmentOptions, *, fill: int) -> Samples:
    """Draws a crop of the network's size; `fill` is the label outside of the image."""
    image, panoptic, size = canvas
    window = random_window(key, size, options)
    image = distort_image(key, image, size, options)
    image = sample_image(image, size, window, normalization=options.normalization)
    return Samples(image, sample_labels(panoptic, size, window, fill=fill))


def augment_further(
    key: Array, sample: Samples, names: Sequence[str], *, void_label: int
) -> Samples:
    """Applies functions of the user's own to one sample, one after the other.

    A function is called as function(rng, image, panoptic, void_label=...) with a random key, the
    crop f32[H, W, C] as the network sees it (normalised, 0 outside of the image) and its label map
    i32[H, W], and returns both, changed. It runs inside jit, under vmap.

    Args:
      key: the random key of the sample.
      sample: the crop, without a batch axis.
      names: 'module:function' each.
      void_label: panoptic value of pixels without a label.

    Raises:
      ValueError: a function was not imported, or returns something else.
    """
    image, panoptic = sample
    for i, name in enumerate(names):
        function = find_own_code('config.augment.extra', name)
        result = function(
            jax.random.fold_in(key, _FIRST_OWN_DRAW + i), image, panoptic, void_label=void_label
        )
        found, expected = _describe(result), _describe((image, panoptic))
        if found != expected:
            raise ValueError(
                f'config.augment.extra: {name} must return (image, panoptic) as it gets them, '
                f'{expected}, not {found}'
            )
        image, panoptic = result
    return Samples(image, panoptic)


def _describe(values: PyTree) -> str:
    if not isinstance(values, tuple):
        return type(values).__name__
    return ', '.join(f'{jnp.result_type(x)}{list(jnp.shape(x))}' for x in values)


def make_train_step(
    system: System,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    options: StepOptions,
    teacher: System | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Makes the step (state, batch) -> (state, scalars), to be jitted with the state donated.

    With a teacher the step is (state, batch, variables of the teacher) -> (state, scalars).
    """
    update = make_update(system, optimizer, schedule, options, teacher)

    def train_step(
        state: TrainState, batch: dict[str, Array], *taught: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        samples = make_training_samples(
            batch, state.step, label_format=system.label_format, options=options
        )
        return update(state, samples, *taught)

    return train_step


def make_update(
    system: System,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    options: StepOptions,
    teacher: System | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Makes the part of `make_train_step` behind the augmentation: samples for a batch."""

    def compute_loss(
        params: PyTree, batch_stats: PyTree, samples: Samples, rng: Array, **learning: Distillation
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        variables = {'params': replicate(params), 'batch_stats': batch_stats}
        with rematerialize(options.remat):
            loss, (terms, updates) = system.loss(variables, samples, rng=rng, **learning)
        # A system whose statistics are frozen, or that has none, updates nothing.
        return loss, (terms, updates.get('batch_stats', batch_stats))

    def make_gradient(*taught: PyTree) -> Gradient:
        learning = {}
        if teacher is not None:
            learning['distillation'] = Distillation(teacher, replicate(taught[0]), options.distill)
        gradient = jax.value_and_grad(functools.partial(compute_loss, **learning), has_aux=True)
        if options.accumulation_steps > 1:
            return accumulate_gradients(gradient, options.accumulation_steps)
        return gradient

    def update(
        state: TrainState, samples: Samples, *taught: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        rng = jax.random.fold_in(jax.random.key(options.seed + 1), state.step)
        (loss, (terms, batch_stats)), gradients = make_gradient(*taught)(
            state.params, state.batch_stats, samples, rng
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        scalars = {
            'loss': loss,
            **{f'loss_{key}': value for key, value in terms.items()},
            'learning_rate': schedule(state.step),
            # The barrier keeps XLA from sharing the squares with the optimiser through memory.
            'gradient_norm': optax.global_norm(jax.lax.optimization_barrier(gradients)),
        }
        variables = {'params': params, 'batch_stats': batch_stats}
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_variables=_average(state, variables, options.ema_decay),
        )
        return state, scalars

    return update


def _average(state: TrainState, variables: PyTree, decay: float) -> PyTree | None:
    if state.ema_variables is None:
        return None
    # Ramp the decay up so that early averages are not dominated by the initial values.
    ramped = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return optax.incremental_update(variables, state.ema_variables, 1 - ramped)
