"""Weights of the potentials by a structured SVM, and templates by k-means.

The SVM is the one of 3DOP, with one slack variable and margin rescaling:

    min |w|^2 / 2 + C xi   so that for all choices of a candidate y_i per object i
    mean_i w (f(y*_i) - f(y_i)) >= mean_i loss(y_i) - xi,   loss = 1 - IoU in space

Source: Joachims et al., Cutting-plane training of structural SVMs, Machine Learning 2009; Chen et
al., 3D Object Proposals, NIPS 2015, section 3.3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.typing import Array

MAX_CUTS = 64
_QP_STEPS = 500
_KMEANS_STEPS = 50


class Examples(NamedTuple):
    """Candidates and objects of F frames.

    Attributes:
      features: f32[F, K, 4] of candidates.
      losses: f32[F, K], 1 - the highest IoU with an object of the frame. A candidate that fits
        another object than the one in question is no mistake.
      valid: bool[F, K].
      targets: f32[F, G, 4], features of the objects' own boxes.
      is_target: bool[F, G].
    """

    features: Array
    losses: Array
    valid: Array
    targets: Array
    is_target: Array


class SvmFit(NamedTuple):
    """The result of the SVM.

    Attributes:
      weights: f32[4].
      slack: f32[], xi of the most violated choice.
      gap: f32[], by how much the last choice violates the cuts; 0 at the optimum.
      num_cuts: i32[], constraints in use.
    """

    weights: Array
    slack: Array
    gap: Array
    num_cuts: Array


@functools.partial(jax.jit, static_argnames=('regularization', 'tolerance'))
def fit_weights(
    examples: Examples, *, regularization: float = 100.0, tolerance: float = 1e-3
) -> SvmFit:
    """Fits weights by cutting planes.

    Features are divided by their standard deviations first, because those of the contrast are a
    hundred times those of the others and |w| would suppress the others.

    Args:
      examples: at least one object.
      regularization: C.
      tolerance: the fit ends when no choice violates the cuts by more, or after `MAX_CUTS`.
    """
    scale = _find_scale(examples.features, examples.valid)
    scaled = examples._replace(features=examples.features / scale, targets=examples.targets / scale)

    def add_cut(state: tuple[SvmFit, Array, Array]) -> tuple[SvmFit, Array, Array]:
        fit, gains, losses = state
        gain, loss = _find_most_violated(fit.weights, scaled)
        gains, losses = gains.at[fit.num_cuts].set(gain), losses.at[fit.num_cuts].set(loss)
        weights = _solve_dual(gains, losses, fit.num_cuts + 1, regularization)
        slack = _slack(weights, gains, losses, fit.num_cuts + 1)
        gain, loss = _find_most_violated(weights, scaled)
        gap = loss - weights @ gain - slack
        return SvmFit(weights, slack, gap, fit.num_cuts + 1), gains, losses

    def is_unfinished(state: tuple[SvmFit, Array, Array]) -> Array:
        return (state[0].gap > tolerance) & (state[0].num_cuts < MAX_CUTS)

    num_features = scale.shape[0]
    start = SvmFit(jnp.zeros(num_features), jnp.float32(0), jnp.float32(jnp.inf), jnp.int32(0))
    cuts = jnp.zeros((MAX_CUTS, num_features)), jnp.zeros(MAX_CUTS)
    fit, _, _ = lax.while_loop(is_unfinished, add_cut, (start, *cuts))
    return fit._replace(weights=fit.weights / scale)


@functools.partial(jax.jit, static_argnames=('num_templates',))
def cluster_sizes(sizes: Array, *, num_templates: int) -> Array:
    """Clusters sizes by k-means, which starts from quantiles of the volume.

    Args:
      sizes: f32[N, 3] in metres, at least one.
      num_templates: number of clusters.

    Returns:
      f32[num_templates, 3]; rows repeat if there are fewer different sizes.
    """
    ranked = sizes[jnp.argsort(jnp.prod(sizes, axis=1))]
    places = (jnp.arange(num_templates) + 0.5) / num_templates * len(sizes)
    centers = ranked[places.astype(jnp.int32)]

    def update(_: int, centers: Array) -> Array:
        distances = ((sizes[:, None] - centers) ** 2).sum(axis=-1)
        member = jax.nn.one_hot(jnp.argmin(distances, axis=1), num_templates)
        counts = member.sum(axis=0)[:, None]
        return jnp.where(counts > 0, member.T @ sizes / jnp.maximum(counts, 1), centers)

    return lax.fori_loop(0, _KMEANS_STEPS, update, centers)


def _find_scale(features: Array, valid: Array) -> Array:
    """Returns the standard deviations of features, f32[D]; 1 for one that does not vary."""
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid[..., None], features, 0).sum(axis=(0, 1)) / count
    squares = jnp.where(valid[..., None], (features - mean) ** 2, 0).sum(axis=(0, 1))
    deviation = jnp.sqrt(squares / count)
    return jnp.where(deviation > 1e-6, deviation, 1)


def _find_most_violated(weights: Array, examples: Examples) -> tuple[Array, Array]:
    """Finds the worst candidate of each frame: the means of gains f32[D] and of losses f32[]."""
    values = examples.features @ weights + examples.losses
    rows = jnp.argmax(jnp.where(examples.valid, values, -jnp.inf), axis=1)
    worst = jnp.take_along_axis(examples.features, rows[:, None, None], axis=1)
    losses = jnp.take_along_axis(examples.losses, rows[:, None], axis=1)
    # Frames without candidates restrict nothing.
    is_used = examples.is_target & examples.valid.any(axis=1, keepdims=True)
    total = jnp.maximum(is_used.sum(), 1)
    gain = jnp.where(is_used[..., None], examples.targets - worst, 0).sum(axis=(0, 1)) / total
    return gain, jnp.where(is_used, losses, 0).sum() / total


def _slack(weights: Array, gains: Array, losses: Array, num_cuts: Array) -> Array:
    violations = jnp.where(jnp.arange(MAX_CUTS) < num_cuts, losses - gains @ weights, 0)
    return jnp.maximum(violations.max(), 0)


def _solve_dual(gains: Array, losses: Array, num_cuts: Array, regularization: float) -> Array:
    """Solves max a losses - |a gains|^2 / 2 over a >= 0, sum a <= C; returns w = a gains.

    Accelerated projected gradients: there are at most `MAX_CUTS` variables.
    """
    used = jnp.arange(MAX_CUTS) < num_cuts
    gains, losses = jnp.where(used[:, None], gains, 0), jnp.where(used, losses, 0)
    curvature = jnp.maximum((gains**2).sum(), 1e-6)

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        point, ahead, momentum = state
        gradient = losses - gains @ (ahead @ gains)
        moved = _project(jnp.where(used, ahead + gradient / curvature, 0), regularization)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - point)
        return moved, ahead, following

    zeros = jnp.zeros(MAX_CUTS)
    point, _, _ = lax.fori_loop(0, _QP_STEPS, step, (zeros, zeros, jnp.float32(1)))
    return point @ gains


def _project(point: Array, total: float) -> Array:
    """Projects f32[N] to the nearest point with no negative value and a sum of at most `total`."""
    clipped = jnp.maximum(point, 0)
    ranked = -jnp.sort(-point)
    excess = (jnp.cumsum(ranked) - total) / (1 + jnp.arange(len(point)))
    shift = excess[jnp.sum(ranked > excess) - 1]
    return jnp.where(clipped.sum() <= total, clipped, jnp.maximum(point - shift, 0))
