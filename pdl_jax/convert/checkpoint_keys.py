"""Rules for what TensorFlow 2 checkpoints hold beside the values of variables."""

import dataclasses
import re
from collections.abc import Iterable

from pdl_jax.convert.rules import Rule, ignore

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


def make_checkpoint_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Completes rules by the names of variables to rules for a checkpoint of `tf.train.Checkpoint`.

    Args:
      rules: the rules of a network; their patterns have no suffix.
    """
    suffix = re.escape(_SUFFIX)
    return (
        ignore('.*/.OPTIMIZER_SLOT/.*', 'an optimiser slot of a variable'),
        ignore('optimizer/.*', 'a variable of the optimiser'),
        ignore(f'(global_step|save_counter|epoch|step)({suffix})?', 'a counter of steps or saves'),
        ignore('_CHECKPOINTABLE_OBJECT_GRAPH', "TensorFlow's index of variables"),
        *(dataclasses.replace(rule, pattern=rule.pattern + suffix) for rule in rules),
    )
