"""The input pipeline: the host's part, with the device's part, and under a training loop."""

import concurrent.futures
import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.files import find_annotations
from benchmarks.ours.compiled import compile_function
from benchmarks.ours.model import make_system_options
from benchmarks.program import Program, Setup
from pdl_jax.data.pipeline import TrainIterator, make_train_iterator
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.runtime.compiler_options import train_compiler_options
from pdl_jax.runtime.sharding import make_mesh, replicated, shard_batch
from pdl_jax.systems.panoptic_deeplab import PanopticDeepLabOptions
from pdl_jax.training.optim import OptimizerOptions, make_optimizer, make_schedule
from pdl_jax.training.step import StepOptions, init_state, make_train_step, make_training_samples

_NUM_STEPS = 1000
# Look-ahead of a worker process in batches.
_NUM_BUFFERED = 2


def prepare(setup: Setup) -> Program:
    """Makes a program that ends where `arguments['until']` says.

    'host' reads batches only, 'samples' also makes the network's samples, 'step' also trains. The
    mode 'step_alone' trains on one batch again and again, without waiting for input.
    """
    source = open_source(setup)
    options = StepOptions(
        AugmentOptions(
            tuple(setup.arguments['crop_size']),
            resize_min_px=setup.arguments['resize_px'],
            resize_max_px=setup.arguments['resize_px'],
        ),
    )
    if setup.arguments['until'] == 'step':
        return _prepare_loop(setup, source, options)
    reader = _Reader(setup, source)
    if setup.arguments['until'] == 'host':
        return _make_reading_program(setup, reader, lambda batch: batch)
    # The rules for targets are the default ones, and no network is run.
    system_options = PanopticDeepLabOptions(tuple(setup.arguments['crop_size']))
    system = system_options.make_system(source.spec.label_format)

    @jax.jit
    def make(batch, step):
        samples = make_training_samples(
            batch, step, label_format=source.spec.label_format, options=options
        )
        return samples.image, system.make_targets(samples.panoptic)

    return _make_reading_program(
        setup, reader, lambda batch: jax.block_until_ready(make(batch, jnp.zeros((), jnp.int32)))
    )


def open_source(setup: Setup) -> RecordSource:
    """Opens the records of the case's photographs; the first of our programs prepares them."""
    folder = setup.files['records']
    annotations = find_annotations(setup.files['photographs'])
    prepare_panoptic_folder(**annotations, out_dir=folder, num_processes=0, check_area=False)
    return open_split(folder, 'train')


class _Reader:
    """Training iterator; within the context of `start` it runs with its look-ahead filled."""

    def __init__(self, setup: Setup, source: RecordSource):
        self._arguments, self._source = setup.arguments, source
        self._iterator: TrainIterator | None = None

    @contextlib.contextmanager
    def start(self):
        num_workers = self._arguments['num_workers']
        self._iterator = make_train_iterator(
            self._source,
            batch_size=self._arguments['batch'],
            canvas_size=self._source.max_size,
            seed=0,
            num_workers=num_workers,
        )
        try:
            # Batches made before the timer starts must not count as work of the timed runs.
            for _ in range(1 + _NUM_BUFFERED * num_workers):
                next(self._iterator)
            yield
        finally:
            self._iterator.close()

    def read(self):
        return next(self._iterator)


def _make_reading_program(setup, reader, use):
    arguments = setup.arguments
    num_batches = arguments['num_images'] // arguments['batch']
    with reader.start():
        use(reader.read())

    def run():
        for _ in range(num_batches):
            use(reader.read())

    return Program(run, num_items=num_batches * arguments['batch'], open=reader.start)


def _prepare_loop(setup, source, options):
    arguments = setup.arguments
    num_batches = arguments['num_images'] // arguments['batch']
    system_options = make_system_options(setup, size=arguments['crop_size'])
    system = system_options.make_system(source.spec.label_format)
    optimizer_options = OptimizerOptions()
    optimizer = make_optimizer(optimizer_options, _NUM_STEPS)
    mesh = make_mesh(devices=jax.devices()[:1])
    reader = _Reader(setup, source)
    with reader.start():
        first = shard_batch(reader.read(), mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(
            lambda: init_state(system, optimizer, options), out_shardings=replicated(mesh)
        )()
        step = jax.jit(
            make_train_step(
                system, optimizer, make_schedule(optimizer_options, _NUM_STEPS), options
            ),
            donate_argnums=0,
            out_shardings=(replicated(mesh), replicated(mesh)),
            compiler_options=train_compiler_options(jax.default_backend()),
        )
        step, compile_seconds, _ = compile_function(step, state, first)
    state, _ = step(state, first)
    is_alone = setup.mode == 'step_alone'
    idle_shares = []
    watcher = concurrent.futures.ThreadPoolExecutor(1)

    def run():
        # The training loop does the same: it fetches a batch while the device works on the last.
        nonlocal state
        idle, done = 0.0, None
        start = time.perf_counter()
        for _ in range(num_batches):
            batch = first if is_alone else shard_batch(reader.read(), mesh)
            if done is not None and done.done():
                idle += time.perf_counter() - done.result()
            state, scalars = step(state, batch)
            if done is not None:
                done.result()
            done = watcher.submit(_wait, scalars['loss'])
        idle_shares.append(idle / (done.result() - start))

    return Program(
        run,
        compile_seconds=compile_seconds,
        num_items=num_batches * arguments['batch'],
        open=contextlib.nullcontext if is_alone else reader.start,
        get_facts=lambda: {} if is_alone else {'stall_share': float(np.median(idle_shares))},
    )


def _wait(array):
    """Returns the time at which the device has finished."""
    array.block_until_ready()
    return time.perf_counter()
