"""Who says which architectures to try next: the controller, or chance."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.search.controller import open_tokens
from pdl_jax.search.ppo import ControllerOptions, Policy
from pdl_jax.search.space import SearchSpace, draw_tokens, mutate_tokens
from pdl_jax.search.student import Student

Tokens = tuple[int, ...]


class Proposer(Protocol):
    """Proposes architectures round by round, and learns from each.

    What it draws depends on the seed, the round and the students of the rounds before only, so that
    a search that reads its students back goes on as if it had not been interrupted.
    """

    def draw(self, round_index: int, count: int) -> list[Tokens]:
        """Draws the architectures of a round."""
        ...

    def update(self, students: Sequence[Student]) -> dict[str, float]:
        """Learns from the students of a round; returns numbers for the log."""
        ...


class PolicyProposer:
    """An LSTM controller that is trained by proximal policy optimisation."""

    def __init__(self, space: SearchSpace, options: ControllerOptions, seed: int) -> None:
        self._policy = Policy(tuple(len(d.values) for d in space.decisions), options)
        start, self._rng = jax.random.split(jax.random.key(seed))
        self._state = self._policy.init(start)

    def draw(self, round_index: int, count: int) -> list[Tokens]:
        """See `Proposer.draw`."""
        rng = jax.random.fold_in(self._rng, round_index)
        tokens = open_tokens(count, self._policy.num_choices)
        rollout = self._policy.roll_out(self._state.params, tokens, rng)
        return [tuple(row) for row in np.asarray(rollout.tokens).tolist()]

    def update(self, students: Sequence[Student]) -> dict[str, float]:
        """See `Proposer.update`."""
        tokens = jnp.array([student.tokens for student in students])
        rewards = jnp.array([student.reward for student in students], jnp.float32)
        self._state, numbers = self._policy.update(self._state, tokens, rewards)
        return {key: float(value) for key, value in numbers.items()}

    def find_probability(self, tokens: Sequence[int]) -> float:
        """Computes the probability that the controller draws these tokens."""
        rollout = self._policy.roll_out(self._state.params, jnp.array([tokens]), self._rng)
        return float(jnp.exp(jnp.sum(rollout.log_prob)))


class RandomProposer:
    """Random search: all architectures alike, or the best one so far with one decision changed."""

    def __init__(self, space: SearchSpace, mutation_share: float, seed: int) -> None:
        self._space = space
        self._mutation_share = mutation_share
        self._seed = seed
        self._best: Student | None = None

    def draw(self, round_index: int, count: int) -> list[Tokens]:
        """See `Proposer.draw`."""
        rng = np.random.default_rng([self._seed, round_index])
        return [self._draw_one(rng) for _ in range(count)]

    def update(self, students: Sequence[Student]) -> dict[str, float]:
        """See `Proposer.update`."""
        known = [*students] if self._best is None else [self._best, *students]
        self._best = max(known, key=lambda student: student.reward)
        return {'best_reward': self._best.reward}

    def _draw_one(self, rng: np.random.Generator) -> Tokens:
        if self._best is not None and rng.random() < self._mutation_share:
            return mutate_tokens(self._space, self._best.tokens, rng)
        return draw_tokens(self._space, rng)
