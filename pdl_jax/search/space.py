"""A search space as a sequence of decisions, each a choice of one of a few values."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Decision(NamedTuple):
    """One choice.

    Attributes:
      name: what is decided.
      values: what there is to choose from; a token is an index of it.
    """

    name: str
    values: tuple[Any, ...]


class SearchSpace(Protocol):
    """Architectures that sequences of tokens name."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions in the order in which they are made."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Writes the architecture of tokens, one per decision, as text.

        Raises:
          ValueError: there are more or fewer of them, or one has no value.
        """
        ...

    def encode(self, architecture: str) -> tuple[int, ...]:
        """Finds tokens of an architecture.

        Raises:
          ValueError: the space does not have it.
        """
        ...


def count_sequences(space: SearchSpace) -> int:
    """Counts the sequences of tokens; some may name the same architecture."""
    return math.prod(len(decision.values) for decision in space.decisions)


def choose_values(space: SearchSpace, tokens: Sequence[int]) -> list[Any]:
    """Looks the values of tokens up.

    Raises:
      ValueError: see `SearchSpace.decode`.
    """
    decisions = space.decisions
    if len(tokens) != len(decisions):
        raise ValueError(f'{len(tokens)} tokens, but the space has {len(decisions)} decisions')
    for token, decision in zip(tokens, decisions, strict=True):
        if not 0 <= token < len(decision.values):
            raise ValueError(
                f'token {token} of {decision.name} must lie in [0, {len(decision.values)})'
            )
    return [decision.values[t] for decision, t in zip(decisions, tokens, strict=True)]


def draw_tokens(space: SearchSpace, rng: np.random.Generator) -> tuple[int, ...]:
    """Draws one token of each decision, all values alike."""
    return tuple(int(rng.integers(len(decision.values))) for decision in space.decisions)


def mutate_tokens(
    space: SearchSpace, tokens: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Changes the token of one decision that has several values."""
    open_decisions = [i for i, d in enumerate(space.decisions) if len(d.values) > 1]
    index = int(rng.choice(open_decisions))
    step = 1 + int(rng.integers(len(space.decisions[index].values) - 1))
    changed = list(tokens)
    changed[index] = (changed[index] + step) % len(space.decisions[index].values)
    return tuple(changed)
