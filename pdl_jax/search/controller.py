"""The controller: an LSTM that decides token by token, each in view of those before."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.typing import Array, PyTree

# A token that is left to the controller.
OPEN = -1


class Rollout(NamedTuple):
    """Sequences of tokens and what the controller thinks of them.

    Attributes:
      tokens: i32[B, T].
      log_prob: f32[B, T], of each token, given those before.
      entropy: f32[B, T], of the distribution of each token, in nats.
    """

    tokens: Array
    log_prob: Array
    entropy: Array


class Controller(nn.Module):
    """An autoregressive LSTM over the decisions of a search space.

    A step reads the embedding of the token before and has logits of its own. Sampling and scoring
    are the same scan over the decisions.

    Attributes:
      num_choices: number of values of each decision.
      features: width of the embeddings and of the LSTM.

    Source: Zoph and Le, Neural Architecture Search with Reinforcement Learning, ICLR 2017; width of
    Tan et al., MnasNet, CVPR 2019.
    """

    num_choices: tuple[int, ...]
    features: int = 100

    @nn.compact
    def __call__(self, tokens: Array, rng: Array) -> Rollout:
        """Draws the tokens that are `OPEN`, and scores all.

        Args:
          tokens: i32[B, T].
          rng: key of the draws.
        """
        batch_size, length = tokens.shape
        choices = jnp.array(self.num_choices)
        # One table for all decisions: row 0 starts a sequence, and decision t begins at first[t].
        first = 1 + jnp.cumsum(choices) - choices
        embed = nn.Embed(1 + sum(self.num_choices), self.features, name='embed')
        # The default initialiser of the recurrent kernel is a QR decomposition, slow to compile.
        cell = nn.OptimizedLSTMCell(
            self.features, recurrent_kernel_init=nn.initializers.lecun_normal(), name='cell'
        )
        heads = self._make_heads(length)

        def step(
            cell: nn.Module, carry: tuple[PyTree, Array], decision: tuple[Array, ...]
        ) -> tuple[tuple[PyTree, Array], Rollout]:
            state, index = carry
            given, key, first, kernel, bias, is_choice = decision
            state, y = cell(state, embed(index))
            logits = jnp.where(is_choice, y @ kernel + bias, -jnp.inf)
            log_probs = jax.nn.log_softmax(logits)
            token = jnp.where(given == OPEN, jax.random.categorical(key, logits), given)
            log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
            # 0 * inf of choices that a decision does not have is no NaN this way.
            finite = jnp.where(is_choice, log_probs, 0.0)
            entropy = -jnp.sum(jnp.exp(finite) * finite * is_choice, axis=-1)
            return (state, first + token), Rollout(token, log_prob, entropy)

        scan = nn.scan(step, variable_broadcast='params', split_rngs={'params': False})
        start = cell.initialize_carry(jax.random.key(0), (batch_size, self.features))
        decisions = (tokens.T, jax.random.split(rng, length), first, *heads)
        _, rollout = scan(cell, (start, jnp.zeros(batch_size, jnp.int32)), decisions)
        return jax.tree.map(jnp.transpose, rollout)

    def _make_heads(self, length: int) -> tuple[Array, Array, Array]:
        """Makes the kernels f32[T, D, C] and biases f32[T, C] of the logits, and which exist."""
        most = max(self.num_choices)
        shape = (length, self.features, most)
        kernel = self.param('head_kernel', nn.initializers.normal(0.01), shape)
        bias = self.param('head_bias', nn.initializers.zeros, (length, most))
        is_choice = jnp.arange(most) < jnp.array(self.num_choices)[:, None]
        return kernel, bias, is_choice


def open_tokens(count: int, num_choices: Sequence[int]) -> Array:
    """Makes sequences i32[count, T] that are left to the controller."""
    return jnp.full((count, len(num_choices)), OPEN, jnp.int32)
