"""A system in a few lines: the class of a pixel from its colour alone, by logistic regression."""

import contextlib
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest

from pdl_jax import presets, systems
from pdl_jax.systems.system import (
    LabelMaps,
    Outputs,
    ParameterGroup,
    Samples,
    System,
    SystemOptions,
    Variables,
)
from pdl_jax.typing import Array, LabelFormat

CONFIG = """
from configs import common

def get_config():
    config = common.get_config()
    config.model.preset = 'color/squares'
    config.augment.crop_height_px = config.augment.crop_width_px = 32
    config.optimizer.learning_rate = 0.05
    config.train.batch_size, config.train.num_steps = 8, 30
    config.train.log_every_steps, config.train.picture_every_steps = 1, 10
    config.evaluate.batch_size = 8
    return config
"""


@contextlib.contextmanager
def color_system():
    """Makes the system known by the preset 'color/squares'."""
    with pytest.MonkeyPatch.context() as patch:
        options = 'tests.systems.toy_system:ColorOptions'
        patch.setitem(systems.SYSTEMS, 'color', options)
        patch.setitem(presets.PRESETS, 'color/squares', presets.Preset('color'))
        yield


@dataclasses.dataclass(frozen=True)
class ColorOptions(SystemOptions):
    """The options: colours and their squares, or colours alone."""

    name: ClassVar[str] = 'color'
    has_instances: ClassVar[bool] = False

    has_squares: bool = True

    def make_system(self, label_format: LabelFormat) -> 'ColorSystem':
        return ColorSystem(label_format, self)


@dataclasses.dataclass(frozen=True)
class ColorSystem(System):
    """Logistic regression on the colour of each pixel."""

    options: ColorOptions

    has_instances = False
    parameter_groups = (ParameterGroup('bias', learning_rate_factor=2.0),)

    def init(self, rng: Array) -> Variables:
        num_inputs = 6 if self.options.has_squares else 3
        shape = (num_inputs, self.label_format.num_classes)
        bias = jnp.zeros(self.label_format.num_classes)
        return {'params': {'kernel': 0.1 * jax.random.normal(rng, shape), 'bias': bias}}

    def outputs(self, variables: Variables, images: Array) -> Outputs:
        params: Any = variables['params']
        x = images
        if self.options.has_squares:
            x = jnp.concatenate([x, x**2], axis=-1)
        return {'logits': x @ params['kernel'] + params['bias']}

    def loss(
        self, variables: Variables, samples: Samples, *, rng: Array
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        logits = self.outputs(variables, samples.image)['logits']
        labels = samples.panoptic // self.label_format.label_divisor
        is_valid = labels != self.label_format.ignore_label
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits), jnp.where(is_valid, labels, 0)[..., None], axis=-1
        )[..., 0]
        loss = -jnp.sum(jnp.where(is_valid, chosen, 0.0)) / jnp.maximum(jnp.sum(is_valid), 1)
        return loss, ({'color': loss}, {})

    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        probability = jax.nn.softmax(outputs['logits'])
        semantic = jnp.argmax(probability, axis=-1).astype(jnp.int32)
        best = jnp.max(probability, axis=-1)
        panoptic = semantic * self.label_format.label_divisor
        return LabelMaps(panoptic, semantic, best, jnp.ones_like(best))
