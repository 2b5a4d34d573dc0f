"""Panoptic quality on the device and over files, and inference, to compare the first with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inputs import NMS_KERNEL_PX, STUFF_AREA_PX, TOP_K
from benchmarks.ours.compiled import compile_program
from benchmarks.ours.model import count_flops, make_system_options
from benchmarks.ours.postprocess import make_label_format
from benchmarks.ours.weights import load_weights
from benchmarks.program import Program, Setup
from pdl_jax.evaluation.files.score_files import evaluate_files
from pdl_jax.experiment import EvaluateOptions
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.postprocess.panoptic import PostprocessOptions
from pdl_jax.prediction.inference import Inference
from pdl_jax.preprocess.augment import AugmentOptions

_GROUPS = ('All', 'Things', 'Stuff')
_FILES = ('gt_json', 'gt_folder', 'pred_json', 'pred_folder')


def prepare(setup: Setup) -> Program:
    """Makes a program over files if the case has them, else over the label maps of an image.

    The mode 'inference' is the inference of an image instead.
    """
    if setup.mode == 'inference':
        return _prepare_inference(setup)
    if 'gt_json' in setup.files:
        return _prepare_files(setup)
    arguments = setup.arguments
    metric = PanopticQuality.for_format(
        make_label_format(arguments['num_classes']), max_segments=TOP_K + arguments['num_classes']
    )

    def count(label, prediction):
        return metric.from_model_output(
            panoptic_label=label, panoptic_prediction=prediction, valid=jnp.ones(1, bool)
        )

    maps = tuple(jax.device_put(setup.load(name)[None]) for name in ('label', 'prediction'))
    return compile_program(
        count,
        maps,
        get_outputs=lambda counted: _get_quality(metric.empty().merge(counted.to_host()).compute()),
    )


def _get_quality(averages):
    return {'quality': np.array([averages[group]['pq'] for group in _GROUPS])}


def _prepare_files(setup):
    # The peer uses one process too.
    run = functools.partial(
        evaluate_files,
        **{name: setup.files[name] for name in _FILES},
        metrics=('pq',),
        num_processes=1,
    )
    run()
    return Program(
        run,
        num_items=setup.arguments['num_images'],
        get_outputs=lambda: _get_quality(run()[0]['pq']),
    )


def _prepare_inference(setup):
    """Makes the inference of the evaluator, from an image to its label map."""
    arguments = setup.arguments
    size = tuple(arguments['size'])
    postprocess = PostprocessOptions(
        nms_kernel_px=NMS_KERNEL_PX, max_centers=TOP_K, stuff_area_limit_px=STUFF_AREA_PX
    )
    options = make_system_options(setup, size=size, postprocess=postprocess)
    system = options.make_system(make_label_format(arguments['num_classes']))
    inference = Inference(system, AugmentOptions(size), EvaluateOptions(), size)

    def infer(variables, image, size):
        return inference.label_maps(variables, image, size)._asdict()

    image = jnp.zeros((1, *size, 3), jnp.uint8)
    inputs = (jax.device_put(load_weights(setup, system.network)), image, jnp.array([size]))
    return compile_program(infer, inputs, flops=count_flops(system.network, size, 1))
