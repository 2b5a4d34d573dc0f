"""Parts of a network that the backward pass recomputes instead of keeping their insides."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def rematerialize(regexes: Sequence[str]) -> Iterator[None]:
    r"""Keeps, while a network is applied, only the inputs of the modules that match.

    Gradients and BatchNorm statistics stay the same up to rounding.

    Args:
      regexes: regexes of module paths, which are those of parameters:
        'backbone/stage[2-5]_block\d+$' takes each unit of a ResNet, 'decoder$' and 'head$' the
        decoders and heads. A module inside one that matches may match too.

    Raises:
      ValueError: no module matches one of them.
    """
    patterns = {re.compile(regex): 0 for regex in regexes}
    entered = set()

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name != '__call__':
            return call(*args, **kwargs)
        path = '/'.join(context.module.path)
        found = [pattern for pattern in patterns if pattern.search(path)]
        if path in entered or not found:
            return call(*args, **kwargs)
        patterns.update((pattern, patterns[pattern] + 1) for pattern in found)

        def run(module: nn.Module, *args: Any) -> Any:
            # The lifted module passes through this interceptor again.
            entered.add(path)
            try:
                return module(*args, **kwargs)  # pyright: ignore[reportCallIssue] - any module.
            finally:
                entered.discard(path)

        return nn.remat(run)(context.module, *args)

    with nn.intercept_methods(intercept):
        yield
    unused = [pattern.pattern for pattern, count in patterns.items() if not count]
    if unused:
        raise ValueError(
            f'no module of the network matches {unused} of config.train.remat: `pdl_jax summary` '
            f'lists paths'
        )
