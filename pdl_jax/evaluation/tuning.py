"""Search of the options of post-processing on a split: one pass of the network, many label maps.

The outputs of a batch stay on the devices while the pixels are grouped under every combination of
the options that decide on the grouping, such as the threshold of centres. Minimal scores and areas
only remove segments, and panoptic quality matches each segment by itself, so the quality under all
their values follows from one histogram of the segments per grouping. Memory does not grow with the
split.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pdl_jax.data.pipeline import make_eval_batches
from pdl_jax.data.records import RecordSource
from pdl_jax.evaluation.segment_histogram import FILTERS, SegmentHistogram
from pdl_jax.experiment import Experiment
from pdl_jax.metrics.panoptic_quality import match_segments
from pdl_jax.metrics.segment_overlap import add_by_class
from pdl_jax.ops.placement import replicate
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.inference import Inference
from pdl_jax.runtime.compiled import CompiledOnFirstCall
from pdl_jax.runtime.progress import show_items
from pdl_jax.runtime.sharding import find_batch_shard, replicated, shard_batch
from pdl_jax.systems.system import Outputs, SystemOptions, Variables
from pdl_jax.typing import Array, suggest

# Scores that a search may raise: the mean panoptic quality of a group of classes.
METRICS = ('pq', 'pq_things', 'pq_stuff')
# A change of one option must gain this much, so that ties leave options as they are.
_MIN_GAIN = 1e-4


class Tuning(NamedTuple):
    """The result of a search.

    Attributes:
      values: the best value of each option that was searched.
      before: the metric with the experiment's own values, in [0, 1].
      after: the metric with the best values.
    """

    values: dict[str, Any]
    before: float
    after: float


def tune(
    experiment: Experiment,
    source: RecordSource,
    mesh: jax.sharding.Mesh,
    variables: Variables,
    *,
    names: Sequence[str] = (),
    metric: str = 'pq',
) -> Tuning:
    """Searches a grid of options for the highest panoptic quality.

    Args:
      experiment: its values are among those that are tried.
      source: the split.
      mesh: the devices, which share the images of a batch.
      variables: the system's, on the mesh.
      names: options of `SystemOptions.tuning_choices`; by default all.
      metric: one of `METRICS`.

    Raises:
      ValueError: the system has no such options, or the metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f'--tune_metric={metric}: it must be one of {", ".join(METRICS)}')
    candidates = list_candidates(experiment.system, names)
    groupings = _Groupings(experiment, source, candidates)
    segments = SegmentHistogram(source.spec.label_format, groupings.count, candidates)
    data = mesh.shape['data']
    batch_size = ceil_div(experiment.evaluate.batch_size, data) * data
    shard_index, shard_count = find_batch_shard(mesh)
    batches = make_eval_batches(
        source, batch_size=batch_size, shard_index=shard_index, shard_count=shard_count
    )
    run = CompiledOnFirstCall(jax.jit(groupings.run_network), name='the network')
    programs = [
        CompiledOnFirstCall(
            jax.jit(functools.partial(groupings.label, fixed), out_shardings=replicated(mesh)),
            name=f'post-processing {i + 1} of {len(groupings.fixed)}',
        )
        for i, fixed in enumerate(groupings.fixed)
    ]
    for batch in show_items(batches, 'tuning'):
        with jax.set_mesh(mesh):
            arrays = shard_batch(batch, mesh)
            outputs = run(variables, arrays)
            results = [program(outputs, arrays) for program in programs]
        for i, result in enumerate(jax.device_get(results)):
            segments.add(i * groupings.num_traced, result, is_first=i == 0)
    return _choose(experiment.system, candidates, groupings.list_values(), segments, metric)


def list_candidates(
    options: SystemOptions, names: Sequence[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """Lists the values to try by option that is searched, ascending, the present one among them.

    Raises:
      ValueError: there is no such option to search.
    """
    choices = options.tuning_choices
    if not choices:
        raise ValueError(f'--tune: a {options.name} network has no options to search')
    for name in names:
        if name not in choices:
            raise ValueError(
                f'--tune={name}: no such option; {suggest(name, choices)}it may be '
                f'{", ".join(choices)}'
            )
    present = options.inference_values
    return {
        name: tuple(sorted({*values, present[name]}))
        for name, values in choices.items()
        if name in (names or choices)
    }


class _Groupings:
    """Combinations of the options that decide which pixels make a segment.

    Programs are compiled per combination of integers, which may decide on shapes; floats are
    arguments.

    Attributes:
      fixed: the combinations of integers.
      num_traced: number of combinations of floats.
    """

    def __init__(
        self,
        experiment: Experiment,
        source: RecordSource,
        candidates: Mapping[str, tuple[Any, ...]],
    ) -> None:
        grouping = {name: v for name, v in candidates.items() if name not in FILTERS}
        floats = {name: v for name, v in grouping.items() if isinstance(v[0], float)}
        self.fixed = _product({name: v for name, v in grouping.items() if name not in floats})
        self._floats = _product(floats)
        self.num_traced = len(self._floats)
        # The filters are applied to the segments, see `SegmentHistogram`.
        self._options = experiment.system.with_inference(
            {name: 0 for name in FILTERS if name in candidates}
        )
        self._label_format = source.spec.label_format
        self._inference = Inference.for_images(
            experiment.make_system(self._label_format),
            experiment.augment,
            experiment.evaluate,
            source.max_size,
        )
        self._max_segments = source.max_segments

    @property
    def count(self) -> int:
        """Number of combinations."""
        return len(self.fixed) * self.num_traced

    def list_values(self) -> list[dict[str, Any]]:
        """Lists the combinations in the order of the results."""
        return [{**fixed, **floats} for fixed in self.fixed for floats in self._floats]

    def run_network(self, variables: Variables, batch: Mapping[str, Array]) -> Outputs:
        """Computes the outputs for a batch."""
        return self._inference.outputs(
            replicate(variables), batch['image'], batch['size'], batch['panoptic']
        )

    def label(
        self, fixed: Mapping[str, int], outputs: Outputs, batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Describes the segments of a batch under each combination of floats.

        Returns:
          [T, B, S] each, T combinations and at most S segments of an image: 'class', 'score', and
          'area' in pixels, which count in post-processing; 'is_matched' and 'is_false', see
          `match_segments`. 'iou_digits': i32[T, B, 3, S]; 'num_labels': i32[T, C], the labelled
          segments of the batch.
        """

        def describe(floats: dict[str, Array]) -> dict[str, Array]:
            options = self._options.with_inference({**fixed, **floats})
            return self._describe(options, outputs, batch)

        values = self._floats
        traced = {name: jnp.array([v[name] for v in values], jnp.float32) for name in values[0]}
        # One after the other: the maps of one combination are in memory at a time.
        return (
            lax.map(describe, traced) if traced else jax.tree.map(lambda x: x[None], describe({}))
        )

    def _describe(
        self, options: SystemOptions, outputs: Outputs, batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        system = options.make_system(self._label_format)
        inference = dataclasses.replace(self._inference, system=system)
        truth, size = batch['panoptic'], batch['size']
        height, width = truth.shape[1:3]
        maps = inference.label_outputs(outputs, size, canvas=(height, width))
        table = system.describe_segments(maps)
        num_rows = max(self._max_segments, system.max_segments)
        match = functools.partial(
            match_segments, label_format=self._label_format, max_segments=num_rows
        )
        matches = jax.vmap(match)(truth, maps.panoptic)
        # Both list the segments of the prediction by ascending label.
        surplus = ((0, 0), (0, num_rows - table['area'].shape[1]))
        area = jnp.pad(table['area'], surplus).astype(jnp.float32)
        classes = matches.predicted_class
        # The limit of stuff counts pixels of the network input; this leaves out its padding.
        resized = jax.vmap(inference.resized)(size).astype(jnp.float32)
        scale = jnp.prod(resized, axis=1) / jnp.maximum(jnp.prod(size, axis=1), 1)
        is_stuff = jnp.isin(classes, jnp.array(self._label_format.stuff_classes, jnp.int32))
        is_counted = matches.is_counted & batch['valid'][:, None]
        add = functools.partial(add_by_class, num_classes=self._label_format.num_classes)
        return {
            'class': classes,
            'score': jnp.pad(table['score'], surplus),
            'area': jnp.where(is_stuff, area * scale[:, None], area),
            'is_matched': matches.is_matched & batch['valid'][:, None],
            'is_false': matches.is_false & batch['valid'][:, None],
            'iou_digits': matches.iou_digits,
            'num_labels': add(
                is_counted.reshape(-1).astype(jnp.int32), matches.label_class.reshape(-1)
            ),
        }


def _choose(
    options: SystemOptions,
    candidates: Mapping[str, tuple[Any, ...]],
    groupings: Sequence[Mapping[str, Any]],
    segments: SegmentHistogram,
    metric: str,
) -> Tuning:
    """Chooses the best combination, the one with the fewest changes among equals."""
    qualities = segments.find_qualities(metric)
    present = options.inference_values
    changes = np.zeros(qualities.shape, np.int64)
    for i, grouping in enumerate(groupings):
        changes[i] = sum(value != present[name] for name, value in grouping.items())
    for axis, name in enumerate(FILTERS, 1):
        if name in candidates:
            is_changed = np.array([value != present[name] for value in candidates[name]])
            changes += is_changed.reshape([-1 if i == axis else 1 for i in range(4)])
    order = qualities - _MIN_GAIN * changes
    best = [int(i) for i in np.unravel_index(np.argmax(order), order.shape)]
    unchanged = np.unravel_index(np.argmin(changes), changes.shape)
    filters = {
        name: candidates[name][index]
        for name, index in zip(FILTERS, best[1:], strict=True)
        if name in candidates
    }
    values = {**groupings[best[0]], **filters}
    values = {name: values[name] for name in candidates}
    return Tuning(values, float(qualities[unchanged]), float(qualities[tuple(best)]))


def _product(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Lists the combinations of values by name; one empty one of no names."""
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
