"""A training step from images and their targets: network, losses, gradients, Adam."""

from benchmarks.ours.model import count_flops, make_system_options
from benchmarks.ours.postprocess import make_label_format
from benchmarks.ours.train_step import make_step_program
from benchmarks.ours.weights import load_weights
from benchmarks.program import Program, Setup
from pdl_jax.losses.panoptic_deeplab import LossOptions
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLab
from pdl_jax.systems.system import Samples
from pdl_jax.training.optim import OptimizerOptions


class _GivenTargets(PanopticDeepLab):
    """A system whose samples have targets in the place of label maps.

    The peers make targets on the host; the suite 'input' compares that.
    """

    def make_targets(self, panoptic):
        return panoptic


def prepare(setup: Setup) -> Program:
    """Makes the training step of `pdl_jax.training`, with a donated state."""
    arguments = setup.arguments
    size, batch = tuple(arguments['size']), arguments['batch']
    # Dropout is off, so that both sides have the same loss.
    system_options = make_system_options(
        setup,
        size=size,
        overrides={'dropout_rate': 0.0},
        # The peers average over the batch.
        loss=LossOptions(scope='batch'),
    )
    system = _GivenTargets(make_label_format(arguments['num_classes']), system_options)
    model = system.network
    variables = load_weights(setup, model)
    targets = {
        name.removeprefix('target_'): setup.load(name)
        for name in setup.files
        if name.startswith('target_')
    }
    return make_step_program(
        setup,
        system,
        variables,
        Samples(setup.load('image'), targets),
        OptimizerOptions(),
        # The backward pass costs two forward passes.
        flops=3 * count_flops(model, size, batch),
    )
