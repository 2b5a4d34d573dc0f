"""Learning-rate schedule and optimiser."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pdl_jax.experiment import OptimizerOptions
from pdl_jax.systems.system import ParameterGroup, System
from pdl_jax.typing import Array, PyTree


def make_schedule(options: OptimizerOptions, num_steps: int) -> optax.Schedule:
    """Makes a linear warm-up, then a decay.

    The warm-up starts from `options.warmup_start_factor` times the peak. The decay counts from step
    0, so the rate drops a little where the two meet. With T for `num_steps` it is

      'poly': rate * (1 - step / T) ** power
      'cosine': rate * (1 + cos(pi * step / T)) / 2
      'step': rate * factor ** n, after n of `options.decay_at_steps`

    Source: DeepLab2's trainer, not shifted by the warm-up; its warm-up starts from 0, that of
    kMaX-DeepLab in PyTorch from 0.001 of the peak. Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    rate = options.learning_rate
    if options.schedule == 'cosine':
        decay = optax.cosine_decay_schedule(rate, num_steps)
    elif options.schedule == 'step':
        boundaries = dict.fromkeys(options.decay_at_steps, options.decay_factor)
        decay = optax.piecewise_constant_schedule(rate, boundaries)
    else:
        decay = optax.polynomial_schedule(
            rate, 0.0, power=options.poly_power, transition_steps=num_steps
        )

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        if not options.warmup_steps:
            return decay(step)
        warm = options.learning_rate * step / options.warmup_steps
        if options.warmup_start_factor:
            start = options.warmup_start_factor
            warm = start * options.learning_rate + (1 - start) * warm
        return jnp.where(jnp.less(step, options.warmup_steps), warm, decay(step))

    return schedule


def make_optimizer(
    options: OptimizerOptions,
    num_steps: int,
    groups: Sequence[ParameterGroup] = (),
    backbone_regex: str = System.backbone_regex,
) -> optax.GradientTransformation:
    """Makes the optimiser, with clipping and weight decay if asked for.

    Args:
      options: kind and numbers.
      num_steps: length of the schedule.
      groups: parameters that are trained in another way; the first group whose regex matches a
        path decides. Frozen parameters do not count in the norm that is clipped.
      backbone_regex: matches paths of parameters whose learning rate is also multiplied by
        `options.backbone_learning_rate_factor`.

    Raises:
      ValueError: in `init`, a factor for the backbone of a network without one.
    """
    schedule = make_schedule(options, num_steps)
    layers = [groups] if groups else []
    before = []
    if options.backbone_learning_rate_factor != 1:
        layers.append((ParameterGroup(backbone_regex, options.backbone_learning_rate_factor),))
        before.append(_require_backbone(options, backbone_regex))
    before += [
        _scale_frozen(layer) for layer in layers if any(g.learning_rate_factor == 0 for g in layer)
    ]
    if options.clip_norm:
        before.append(optax.clip_by_global_norm(options.clip_norm))
    decay = []
    if options.weight_decay or any(group.weight_decay for group in groups):
        find = _find_kernels if options.kind == 'adamw' else _find_dense_kernels
        decay.append(_add_weight_decay(options.weight_decay, groups, find))
    moments: dict[str, Any] = {
        'b1': options.adam_b1,
        'b2': options.adam_b2,
        'eps': options.adam_epsilon,
    }
    if options.kind == 'adamw':
        # Added behind the moments, which it does not enter, and before the schedule's rate.
        rate = optax.scale_by_learning_rate(schedule)
        update = optax.chain(optax.scale_by_adam(**moments), *decay, rate)
    else:
        before += decay
        update = (
            optax.adam(schedule, **moments)
            if options.kind == 'adam'
            else optax.sgd(schedule, momentum=options.momentum)
        )
    after = [_scale_groups(layer) for layer in layers]
    return optax.chain(*before, update, *after) if before or after else update


def _add_weight_decay(
    decay: float, groups: Sequence[ParameterGroup], find: Callable[[PyTree], PyTree]
) -> optax.GradientTransformation:
    """Adds parameters times their decay to the updates of those that `find` marks."""
    if not groups:
        return optax.add_decayed_weights(decay, mask=find)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        def decays(group: ParameterGroup | None) -> float:
            return decay if group is None or group.weight_decay is None else group.weight_decay

        factors = _map_groups(decays, updates, groups)
        is_decayed = find(updates)
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


def _require_backbone(options: OptimizerOptions, regex: str) -> optax.GradientTransformation:
    """Refuses parameters none of whose paths matches; changes no updates."""

    def init(params: PyTree) -> optax.OptState:
        matches = _map_paths(lambda path: re.search(regex, path) is not None, params)
        if not any(jax.tree.leaves(matches)):
            raise ValueError(
                f'config.optimizer.backbone_learning_rate_factor '
                f'(={options.backbone_learning_rate_factor}): no parameter of this network matches '
                f'{regex!r}: set it to 1'
            )
        return optax.EmptyState()

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def _map_groups(
    function: Callable[[ParameterGroup | None], Any],
    tree: PyTree,
    groups: Sequence[ParameterGroup],
) -> PyTree:
    """Maps a function of a parameter's group, None if it has none, over a tree of parameters."""
    return _map_paths(
        lambda path: function(next((g for g in groups if re.search(g.regex, path)), None)), tree
    )


def _map_paths(function: Callable[[str], Any], tree: PyTree) -> PyTree:
    """Maps a function of a parameter's path, such as 'head/kernel', over a tree of parameters."""

    def apply(path: tuple[Any, ...], _: Array) -> Any:
        return function(jax.tree_util.keystr(path, simple=True, separator='/'))

    return jax.tree_util.tree_map_with_path(apply, tree)


def _find_dense_kernels(params: PyTree) -> PyTree:
    """True for kernels [k, k, C, D] with C > 1; depthwise ones have C = 1."""
    return jax.tree.map(lambda x: x.ndim == 4 and x.shape[2] > 1, params)


def _find_kernels(params: PyTree) -> PyTree:
    """True for the kernels of all convolutions and dense layers, by the end of their names.

    Not for biases, normalisation, embeddings and queries.

    Source: DeepLab2's AdamW, whose regex is '(kernel|weight)$'; it matches depthwise kernels too.
    """
    return _map_paths(lambda path: re.search('(kernel|weight)$', path) is not None, params)
