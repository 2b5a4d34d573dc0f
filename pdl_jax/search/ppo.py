"""Proximal policy optimisation of the controller."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pdl_jax.search.controller import Controller, Rollout, open_tokens
from pdl_jax.typing import Array, PyTree, check_not_negative, check_positive, check_share


@dataclasses.dataclass(frozen=True)
class ControllerOptions:
    """The controller and its training.

    Attributes:
      features: width of the LSTM.
      learning_rate: Adam's.
      clip_ratio: new probabilities of a sequence gain nothing beyond 1 +- this of the old ones.
      entropy_weight: weight of the entropy per decision, which keeps the controller exploring.
      baseline_decay: share of the old baseline that an update keeps.
      num_epochs: steps of Adam per update.
    """

    features: int = 100
    learning_rate: float = 2e-3
    clip_ratio: float = 0.2
    entropy_weight: float = 1e-3
    baseline_decay: float = 0.9
    num_epochs: int = 8

    def __post_init__(self) -> None:
        section = 'search.controller'
        check_positive(section, self, 'features', 'learning_rate', 'clip_ratio', 'num_epochs')
        check_not_negative(section, self, 'entropy_weight')
        check_share(section, self, 'baseline_decay')


class PolicyState(NamedTuple):
    """The training state of a controller.

    Attributes:
      params: the controller's.
      opt_state: Adam's.
      baseline: f32[], the moving average of rewards; NaN before the first update.
    """

    params: PyTree
    opt_state: optax.OptState
    baseline: Array


@dataclasses.dataclass(frozen=True)
class Policy:
    """A controller with its training, as pure functions.

    Attributes:
      num_choices: number of values of each decision.
      options: the controller and its training.

    Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017, equation 7.
    """

    num_choices: tuple[int, ...]
    options: ControllerOptions = ControllerOptions()

    @property
    def controller(self) -> Controller:
        """The flax module."""
        return Controller(self.num_choices, self.options.features)

    @functools.partial(jax.jit, static_argnums=0)
    def init(self, rng: Array) -> PolicyState:
        """Draws a controller, which begins close to uniform."""
        params = self.controller.init(rng, open_tokens(1, self.num_choices), rng)['params']
        return PolicyState(params, self._make_optimizer().init(params), jnp.array(jnp.nan))

    @functools.partial(jax.jit, static_argnums=0)
    def roll_out(self, params: PyTree, tokens: Array, rng: Array) -> Rollout:
        """Draws the open tokens of sequences i32[B, T], and scores all, see `Controller`."""
        return self._run(params, tokens, rng)

    @functools.partial(jax.jit, static_argnums=0)
    def update(
        self, state: PolicyState, tokens: Array, rewards: Array
    ) -> tuple[PolicyState, dict[str, Array]]:
        """Makes sequences more probable whose reward is above the baseline.

        Args:
          state: the policy that drew the sequences.
          tokens: i32[B, T].
          rewards: f32[B].

        Returns:
          The new state, and numbers f32[] for the log.
        """
        options = self.options
        mean = jnp.mean(rewards)
        baseline = jnp.where(jnp.isnan(state.baseline), mean, state.baseline)
        advantage = rewards - baseline
        old = jnp.sum(self._run(state.params, tokens, jax.random.key(0)).log_prob, axis=1)

        def compute_loss(params: PyTree) -> tuple[Array, Array]:
            rollout = self._run(params, tokens, jax.random.key(0))
            ratio = jnp.exp(jnp.sum(rollout.log_prob, axis=1) - old)
            clipped = jnp.clip(ratio, 1 - options.clip_ratio, 1 + options.clip_ratio)
            gain = jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
            entropy = jnp.mean(rollout.entropy)
            return -gain - options.entropy_weight * entropy, entropy

        def step(carry: tuple[PyTree, optax.OptState], _: None) -> tuple[PyTree, Array]:
            params, opt_state = carry
            gradients, entropy = jax.grad(compute_loss, has_aux=True)(params)
            updates, opt_state = self._make_optimizer().update(gradients, opt_state)
            return (optax.apply_updates(params, updates), opt_state), entropy

        start = (state.params, state.opt_state)
        (params, opt_state), entropy = jax.lax.scan(step, start, length=options.num_epochs)
        decay = options.baseline_decay
        baseline = decay * baseline + (1 - decay) * mean
        return PolicyState(params, opt_state, baseline), {
            'reward': mean,
            'baseline': baseline,
            'entropy': entropy[-1],
        }

    def _run(self, params: PyTree, tokens: Array, rng: Array) -> Rollout:
        rollout = self.controller.apply({'params': params}, tokens, rng)
        assert isinstance(rollout, Rollout)
        return rollout

    def _make_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.options.learning_rate)
