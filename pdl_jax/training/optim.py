"""Learning-rate schedule and optimiser."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pdl_jax.experiment import OptimizerOptions
from pdl_jax.systems.system import ParameterGroup
from pdl_jax.typing import Array, PyTree


def make_schedule(options: OptimizerOptions, num_steps: int) -> optax.Schedule:
    """Makes a linear warm-up, then polynomial decay.

    The decay counts from step 0, so the rate drops a little where the two meet.

    Source: DeepLab2's trainer: rate * (1 - step / num_steps) ** power, not shifted by the warm-up.
    """
    decay = optax.polynomial_schedule(
        options.learning_rate, 0.0, power=options.poly_power, transition_steps=num_steps
    )

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        if not options.warmup_steps:
            return decay(step)
        warm = options.learning_rate * step / options.warmup_steps
        return jnp.where(jnp.less(step, options.warmup_steps), warm, decay(step))

    return schedule


def make_optimizer(
    options: OptimizerOptions, num_steps: int, groups: Sequence[ParameterGroup] = ()
) -> optax.GradientTransformation:
    """Makes the optimiser, behind clipping and weight decay if asked for.

    Args:
      options: kind and numbers.
      num_steps: length of the schedule.
      groups: parameters that are trained in another way; the first group whose regex matches a
        path decides. Frozen parameters do not count in the norm that is clipped.
    """
    schedule = make_schedule(options, num_steps)
    if options.kind == 'adam':
        update = optax.adam(
            schedule, b1=options.adam_b1, b2=options.adam_b2, eps=options.adam_epsilon
        )
    else:
        update = optax.sgd(schedule, momentum=options.momentum)
    before = [_scale_frozen(groups)] if any(g.learning_rate_factor == 0 for g in groups) else []
    if options.clip_norm:
        before.append(optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay or any(group.weight_decay for group in groups):
        before.append(_add_weight_decay(options.weight_decay, groups))
    after = [_scale_groups(groups)] if groups else []
    return optax.chain(*before, update, *after) if before or after else update


def _add_weight_decay(
    decay: float, groups: Sequence[ParameterGroup]
) -> optax.GradientTransformation:
    if not groups:
        return optax.add_decayed_weights(decay, mask=_find_dense_kernels)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        def decays(group: ParameterGroup | None) -> float:
            return decay if group is None or group.weight_decay is None else group.weight_decay

        factors = _map_groups(decays, updates, groups)
        is_decayed = _find_dense_kernels(updates)
        updates = jax.tree.map(
            lambda g, p, factor, on: g + factor * p if on else g,
            updates,
            params,
            factors,
            is_decayed,
        )
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_groups(groups: Sequence[ParameterGroup]) -> optax.GradientTransformation:
    """Multiplies updates by the learning-rate factors of their groups."""

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        factors = _map_groups(
            lambda g: 1.0 if g is None else g.learning_rate_factor, updates, groups
        )
        return jax.tree.map(lambda update, factor: factor * update, updates, factors)

    return optax.stateless(scale)


def _scale_frozen(groups: Sequence[ParameterGroup]) -> optax.GradientTransformation:
    """Zeroes the gradients of frozen parameters."""

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        frozen = _map_groups(
            lambda g: g is not None and g.learning_rate_factor == 0, updates, groups
        )
        return jax.tree.map(lambda x, off: jnp.zeros_like(x) if off else x, updates, frozen)

    return optax.stateless(scale)


def _map_groups(
    function: Callable[[ParameterGroup | None], Any],
    tree: PyTree,
    groups: Sequence[ParameterGroup],
) -> PyTree:
    """Maps a function of a parameter's group, None if it has none, over a tree of parameters."""

    def find(path: tuple[Any, ...], _: Array) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        return function(next((g for g in groups if re.search(g.regex, name)), None))

    return jax.tree_util.tree_map_with_path(find, tree)


def _find_dense_kernels(params: PyTree) -> PyTree:
    """True for kernels [k, k, C, D] with C > 1; depthwise ones have C = 1."""
    return jax.tree.map(lambda x: x.ndim == 4 and x.shape[2] > 1, params)
