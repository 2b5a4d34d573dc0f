"""Parts of a network that the backward pass computes again instead of keeping what is inside."""

import contextlib
import re
from collections.abc import Iterator, Sequence

import flax.linen as nn


@contextlib.contextmanager
def rematerialize(regexes: Sequence[str]) -> Iterator[None]:
    r"""While a network is applied, keeps of the modules that match only what goes in.

    Gradients and BatchNorm statistics stay the same but for rounding.

    Args:
      regexes: of module paths, which are those of parameters: 'backbone/stage[2-5]_block\d+$' takes each unit of a ResNet,
        'decoder$' and 'head$' the decoders and heads. A module inside of one that matches may match too.

    Raises:
      ValueError: no module matches one of them.
    """
    patterns = {re.compile(regex): 0 for regex in regexes}
    entered = set()

    def intercept(call, args, kwargs, context):
        path = '/'.join(context.module.path)
        found = [pattern for pattern in patterns if pattern.search(path)]
        if context.method_name != '__call__' or path in entered or not found:
            return call(*args, **kwargs)
        patterns.update((pattern, patterns[pattern] + 1) for pattern in found)

        def run(module, *args):
            # The module that is lifted comes by here again.
            entered.add(path)
            try:
                return module(*args, **kwargs)
            finally:
                entered.discard(path)

        return nn.remat(run)(context.module, *args)

    with nn.intercept_methods(intercept):
        yield
    unused = [pattern.pattern for pattern, count in patterns.items() if not count]
    if unused:
        raise ValueError(
            f'no module of the network matches {unused} of config.train.remat: `pdl_jax.models.summary` lists paths'
        )
