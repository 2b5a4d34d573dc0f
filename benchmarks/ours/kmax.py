"""kMaX-DeepLab: inference to masks and classes, and a train step from images and label maps."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR, list_thing_classes
from benchmarks.ours.compiled import compile_function, compile_program, count_bytes
from benchmarks.program import Program, Setup
from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import check_account, choose_network, load
from pdl_jax.convert.sources import SOURCES
from pdl_jax.losses.mask_transformer import MaskLossOptions
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.presets import make_any_network
from pdl_jax.runtime.compiler_options import train_compiler_options
from pdl_jax.systems.kmax_deeplab import KMaXDeepLabOptions
from pdl_jax.systems.system import Samples
from pdl_jax.training import step as train_step
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import StepOptions, make_train_step
from pdl_jax.typing import LabelFormat

_NUM_STEPS = 1000


def prepare(setup: Setup) -> Program:
    """Makes inference, or a train step where the case has label maps."""
    arguments = setup.arguments
    num_classes, size = arguments['num_classes'], tuple(arguments['size'])
    is_training = 'label_maps' in arguments['inputs']
    # Nothing is dropped or drawn, so that both sides have the same loss.
    model = make_any_network(arguments['preset'], dropout_rate=0.0, transformer_keep_prob=1.0)
    # Every pixel of the masks is contrasted, and its class learnt.
    num_pixels = int(np.prod([(n - 1) // 4 + 1 for n in size]))
    options = KMaXDeepLabOptions(
        size,
        'float32' if setup.device == 'cpu' else 'bfloat16',
        model=model,
        loss=MaskLossOptions(instance_samples_px=num_pixels, semantic_samples_px=0),
    )
    things = list_thing_classes(num_classes)
    system = options.make_system(LabelFormat(num_classes, things, IGNORE_LABEL, LABEL_DIVISOR))
    variables = _load_weights(setup)
    image = jax.device_put(setup.load('image'))
    if not is_training:
        return compile_program(system.outputs, (jax.device_put(variables), image))
    return _prepare_step(setup, system, variables, image)


def _load_weights(setup: Setup):
    with np.load(setup.files['weights']) as file:
        contents = Contents(dict(file))
    conversion = choose_network(contents, SOURCES['kmax_pytorch'], setup.arguments['preset'])
    check_account(conversion)
    return load(conversion, contents)


def _prepare_step(setup, system, variables, image):
    panoptic = jnp.stack([setup.load('label'), setup.load('prediction')]).astype(jnp.int32)
    options = OptimizerOptions(kind='adamw', weight_decay=0.05, adam_epsilon=1e-8)
    optimizer = make_optimizer(options, _NUM_STEPS)
    step_options = StepOptions(AugmentOptions(tuple(setup.arguments['size'])))
    step = make_train_step(system, optimizer, make_schedule(options, _NUM_STEPS), step_options)
    samples = {'image': image, 'panoptic': panoptic}
    state = jax.device_put(
        TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables['params'],
            batch_stats=variables['batch_stats'],
            opt_state=optimizer.init(variables['params']),
        )
    )
    compiler_options = train_compiler_options(jax.default_backend())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler_options)

    def take_samples(batch, *_, **__):
        return Samples(batch['image'], batch['panoptic'])

    with mock.patch.object(train_step, 'make_training_samples', take_samples):
        compiled, seconds, temp_bytes = compile_function(jitted, state, samples)
    argument_bytes = count_bytes((state, samples))
    state, scalars = compiled(state, samples)
    first_loss = np.asarray(scalars['loss'])

    def run():
        nonlocal state
        state, scalars = compiled(state, samples)
        jax.block_until_ready(scalars)

    return Program(
        run,
        compile_seconds=seconds,
        argument_bytes=argument_bytes,
        temp_bytes=temp_bytes,
        num_items=setup.arguments['batch'],
        get_outputs=lambda: {'loss': first_loss},
    )
