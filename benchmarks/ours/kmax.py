"""kMaX-DeepLab: inference to masks and classes, and a train step from images and label maps."""

import jax
import numpy as np

from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR, list_thing_classes
from benchmarks.ours.compiled import compile_program
from benchmarks.ours.train_step import make_step_program
from benchmarks.program import Program, Setup
from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import check_account, choose_network, load
from pdl_jax.convert.sources import SOURCES
from pdl_jax.losses.mask_transformer import MaskLossOptions
from pdl_jax.presets import make_any_network
from pdl_jax.systems.kmax_deeplab import KMaXDeepLabOptions
from pdl_jax.systems.system import Samples
from pdl_jax.training.optim import OptimizerOptions
from pdl_jax.typing import LabelFormat


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
    image = setup.load('image')
    if not is_training:
        return compile_program(system.outputs, jax.device_put((variables, image)))
    panoptic = np.stack([setup.load('label'), setup.load('prediction')]).astype(np.int32)
    optimizer = OptimizerOptions(kind='adamw', weight_decay=0.05, adam_epsilon=1e-8)
    samples = Samples(image, panoptic)
    return make_step_program(setup, system, variables, samples, optimizer)


def _load_weights(setup: Setup):
    with np.load(setup.files['weights']) as file:
        contents = Contents(dict(file))
    conversion = choose_network(contents, SOURCES['kmax_pytorch'], setup.arguments['preset'])
    check_account(conversion)
    return load(conversion, contents)
