"""The programs of a run, ready to be compiled for devices that need not exist."""

import functools
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pdl_jax import config as config_lib
from pdl_jax.data.records import RecordSource
from pdl_jax.evaluation.evaluator import Evaluator
from pdl_jax.ops.placement import split_rows
from pdl_jax.planning.outline import SplitOutline
from pdl_jax.planning.program import Program
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.prediction.inference import run_passes
from pdl_jax.runtime.sharding import batch_sharding
from pdl_jax.training.program import make_step_program

PROGRAMS = ('train', 'eval', 'postprocess')
Source = RecordSource | SplitOutline


def make_programs(
    config: ConfigDict, mesh: jax.sharding.Mesh, train_source: Source, eval_source: Source
) -> dict[str, Program]:
    """Makes the train step, the eval step and, by itself, the post-processing of the latter.

    Raises:
      ValueError: a field of the configuration does not fit the mesh.
    """
    train, state = _make_train(config, mesh, train_source)
    evaluation = _make_eval(config, mesh, eval_source, state)
    return {
        'train': train,
        'eval': evaluation,
        'postprocess': _make_postprocess(config, mesh, eval_source, evaluation),
    }


def _make_train(config, mesh, source):
    program = make_step_program(config, mesh, source.spec.label_format)
    canvas = config_lib.canvas_size(config, source.max_size)
    batch = _place(_outline_batch(config.train.batch_size, canvas), batch_sharding(mesh))
    arguments = program.abstract_state, batch
    return Program(
        'train', program.step, arguments, config.train.batch_size, program.crop_size
    ), program.abstract_state


def _make_eval(config, mesh, source, state):
    evaluator = Evaluator(config, source, mesh)
    batch = _outline_batch(evaluator.batch_size, source.max_size)
    batch['valid'] = jax.ShapeDtypeStruct((evaluator.batch_size,), jnp.bool_)
    batch['record'] = jax.ShapeDtypeStruct((evaluator.batch_size,), jnp.int32)
    variables = state.eval_variables
    return Program(
        'eval',
        evaluator.step,
        (variables, _place(batch, batch_sharding(mesh))),
        evaluator.batch_size,
        config_lib.input_size(config, source.max_size),
        # A run evaluates between two steps: the rest of its state stays.
        _count_device_bytes(state) - _count_device_bytes(variables),
    )


def _make_postprocess(config, mesh, source, evaluation):
    label_format = source.spec.label_format
    passes = config_lib.make_passes(config, label_format.num_classes, evaluation.size)
    images = jax.ShapeDtypeStruct((evaluation.num_images, *evaluation.size, 3), jnp.float32)
    is_enlarged = bool(config.evaluate.oracle)
    run = functools.partial(run_passes, passes, is_semantic_enlarged=is_enlarged)
    outputs = jax.eval_shape(run, evaluation.arguments[0], images)
    arguments = {
        'size': evaluation.size,
        'resize': passes[0].model.model.resize,
        **config_lib.postprocess_arguments(config),
    }

    def process(outputs):
        large = {key: x for key, x in outputs.items() if is_enlarged or key != 'semantic'}
        return post_process(
            {**outputs, **split_rows(large)}, label_format=label_format, **arguments
        )

    return Program(
        'postprocess',
        jax.jit(process, out_shardings=batch_sharding(mesh)),
        (_place(outputs, batch_sharding(mesh)),),
        evaluation.num_images,
        evaluation.size,
    )


def _outline_batch(batch_size, canvas):
    """The arrays of `data.pipeline` that every step takes."""
    return {
        'image': jax.ShapeDtypeStruct((batch_size, *canvas, 3), jnp.uint8),
        'panoptic': jax.ShapeDtypeStruct((batch_size, *canvas), jnp.int32),
        'size': jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
    }


def _place(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _count_device_bytes(tree):
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
