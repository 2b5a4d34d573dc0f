"""Evaluation on a split: padded batches, metrics on the device, exact sums on the host."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.pipeline import make_eval_batches
from pdl_jax.data.pixel_format import PixelFormat, format_range
from pdl_jax.data.records import RecordSource
from pdl_jax.data.statistics import find_warnings
from pdl_jax.evaluation.report import make_report
from pdl_jax.evaluation.run_analysis import RunAnalysis
from pdl_jax.experiment import EvaluateOptions, Experiment
from pdl_jax.metrics.class_accuracy import ClassAccuracy
from pdl_jax.metrics.computation_mean import ComputationMean
from pdl_jax.metrics.image_tables import describe_images
from pdl_jax.metrics.instance_ap import CityscapesAP, InstanceAP
from pdl_jax.metrics.loss_mean import LossMean
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.metrics.parsing_covering import ParsingCovering
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.ops.placement import replicate, split_rows
from pdl_jax.ops.rounding import ceil_div
from pdl_jax.prediction.ensemble import Member, make_inference
from pdl_jax.prediction.formats import PanopticWriter, SemanticWriter
from pdl_jax.prediction.object_limit import find_max_objects
from pdl_jax.runtime.compiled import CompiledOnFirstCall
from pdl_jax.runtime.progress import show_items
from pdl_jax.runtime.sharding import batch_sharding, find_batch_shard, replicated, shard_batch
from pdl_jax.systems.computation import count_multiply_adds
from pdl_jax.systems.system import Outputs, System, Variables, image_size
from pdl_jax.typing import Array


class Evaluator:
    """Scores variables on one split; compiled at the first call, then called as often as needed.

    Args:
      experiment: the run.
      system: the experiment's, for the classes of the split.
      source: the split.
      mesh: the devices; the images of a batch are spread over its 'data' axis.
      predictions_dir: where to write predictions, see `prediction.formats`; '' writes none.
      has_scores: compute the scores of segments, for the analysis, also if nothing else needs them.
      members: the kinds of networks of an ensemble, see `prediction.ensemble`; () for one network.

    Attributes:
      inference: the functions that label images.
      step: jitted (variables, batch) -> (states of the metrics, tables of the images, predictions).
      batch_size: images per batch, over all processes.

    Raises:
      ValueError: predictions are to be written by several processes, or the images of the split
        have another number of channels.
    """

    def __init__(
        self,
        experiment: Experiment,
        system: System,
        source: RecordSource,
        mesh: jax.sharding.Mesh,
        *,
        predictions_dir: str = '',
        has_scores: bool = False,
        members: Sequence[Member] = (),
    ):
        if predictions_dir and jax.process_count() > 1:
            raise ValueError('predictions are written by one process: evaluate on one host')
        self._system = system
        self._source = source
        self._mesh = mesh
        self._predictions_dir = predictions_dir
        self._analysis: RunAnalysis | None = None
        # The devices along 'data' must divide a batch; the padding is masked.
        data = mesh.shape['data']
        self.batch_size = ceil_div(experiment.evaluate.batch_size, data) * data
        self.inference = make_inference(
            system, experiment.augment, experiment.evaluate, source.max_size, members
        )
        check_channels(experiment, source)
        _warn_of_many_instances(system, source)
        self._metrics = _make_metrics(system, source, experiment.evaluate.extra_metrics)
        has_loss = _has_loss(experiment.evaluate)
        if has_loss:
            self._metrics['loss'] = LossMean
        if self.inference.is_adaptive:
            self._metrics['computation'] = self._make_computation_metric()
        describe = _make_table_function(system, source)
        has_scores |= 'ap' in self._metrics or bool(predictions_dir)
        has_scores &= system.has_instances

        def step(
            variables: Variables, batch: dict[str, Array]
        ) -> tuple[dict[str, Any], dict[str, Array], tuple[Array, dict[str, Array] | None]]:
            outputs = self.inference.outputs(
                replicate(variables), batch['image'], batch['size'], batch['panoptic']
            )
            maps = self.inference.label_outputs(
                outputs, batch['size'], canvas=image_size(batch['image'])
            )
            described = self._describe_inputs(replicate(variables), batch, outputs)
            table = system.describe_segments(maps) if has_scores else None
            states = {
                key: metric.from_model_output(
                    panoptic_label=batch['panoptic'],
                    panoptic_prediction=maps.panoptic,
                    semantic_prediction=maps.semantic,
                    segment_table=table,
                    size=batch['size'],
                    valid=batch['valid'],
                    **described,
                )
                for key, metric in self._metrics.items()
            }
            tables = describe(batch['panoptic'], maps.panoptic, maps.semantic, table)
            tables['record'] = batch['record']
            # Without them the compiler leaves out what only predictions have, such as boxes.
            kept = table if predictions_dir else None
            return states, tables, (maps.panoptic, kept)

        # States are sums or tables over the global batch, so every process gets the same arrays.
        everywhere = replicated(mesh)
        self.step = jax.jit(step, out_shardings=(everywhere, everywhere, batch_sharding(mesh)))
        self._compiled = CompiledOnFirstCall(self.step, name='the evaluation step')

    def __call__(
        self, variables: Variables, *, is_stopped: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Evaluates.

        Args:
          variables: the system's, on the mesh.
          is_stopped: asked before every batch whether to give up.

        Returns:
          The report, see `make_report`; None if `is_stopped` said so.

        Raises:
          ValueError: an image cannot be read.
        """
        source = self._source
        shard_index, shard_count = find_batch_shard(self._mesh)
        batches = make_eval_batches(
            source, batch_size=self.batch_size, shard_index=shard_index, shard_count=shard_count
        )
        writer = None
        if self._predictions_dir:
            writer = _make_writer(self._system, self._predictions_dir, source.spec)
        totals = {key: metric.empty() for key, metric in self._metrics.items()}
        analysis = RunAnalysis(source, has_instances=self._system.has_instances)
        start = time.monotonic()
        pending = None

        def collect(results: tuple[Any, Any, Any], batch: Mapping[str, np.ndarray]) -> None:
            states, tables, predictions = results
            states, tables = jax.device_get((states, tables))
            totals.update({key: total.merge(states[key]) for key, total in totals.items()})
            analysis.add(tables, predictions[0], batch)
            if writer is not None:
                self._write(writer, predictions, batch)

        # Within a run the bar of the steps stays above.
        for batch in show_items(batches, 'evaluating'):
            if is_stopped():
                return None
            with jax.set_mesh(self._mesh):
                results = self._compiled(variables, shard_batch(batch, self._mesh))
            # The previous batch is read while this one runs.
            if pending is not None:
                collect(*pending)
            pending = results, batch
        if pending is not None:
            collect(*pending)
        if writer is not None:
            writer.close()
        values = {key: total.compute() for key, total in totals.items()}
        classes = 'accuracy' if self._system.labels_images else 'miou'
        confusion = totals[classes].host_sums()['confusion']
        analysis.complete(confusion, batches.file_names)
        self._analysis = analysis
        logging.info('evaluated %d images in %.1f s', len(source), time.monotonic() - start)
        statistics = source.statistics
        warnings = [] if statistics is None else find_warnings(statistics, source.spec)
        return make_report(values, source.spec, num_images=len(source), warnings=warnings)

    def _describe_inputs(
        self, variables: Variables, batch: dict[str, Array], outputs: Outputs
    ) -> dict[str, Any]:
        """Computes what metrics of whole images or at the size of the network's input need."""
        described = {}
        if self._system.labels_images:
            described['image_scores'] = self._system.image_scores(outputs)
        if 'loss' in self._metrics or 'computation' in self._metrics:
            labels = self.inference.prepare_labels(batch['panoptic'], batch['size'])
            described['input_labels'] = labels
        if 'loss' in self._metrics:
            described['image_losses'] = self._system.image_losses(outputs, labels)
        if 'computation' in self._metrics:
            images, _ = self.inference.prepare(batch['image'], batch['size'])
            described['computation'] = self._system.measure_computation(
                variables, split_rows(images)
            )
        return described

    def _make_computation_metric(self) -> type[ComputationMean]:
        network, source = self._system.network, self._source
        assert network is not None  # Only networks halt.
        dense = count_multiply_adds(network, self.inference.input_size, source.pixels.num_channels)
        return ComputationMean.for_network(source.spec.label_format, dense)

    def analyze(self) -> dict[str, Any] | None:
        """Explains the scores of the last call, see `RunAnalysis.describe`; None before any.

        All processes must call this.
        """
        return None if self._analysis is None else self._analysis.describe()

    def _write(
        self,
        writer: PanopticWriter | SemanticWriter,
        predictions: tuple[Array, dict[str, Array] | None],
        batch: Mapping[str, np.ndarray],
    ) -> None:
        """Writes the predictions of a batch."""
        panoptic, table = jax.device_get(predictions)
        for i in np.flatnonzero(batch['valid']):
            height, width = batch['size'][i]
            info = self._source.info(int(batch['record'][i]))
            scores = {}
            if table:
                labels, values = table['label'][i].tolist(), table['score'][i].tolist()
                scores = dict(zip(labels, values, strict=True))
            writer.write(
                panoptic[i, :height, :width],
                image_id=info['image_id'],
                file_name=info['annotation_file_name'],
                scores=scores,
            )


def _make_writer(
    system: System, directory: str, spec: DatasetSpec
) -> PanopticWriter | SemanticWriter:
    kind = PanopticWriter if system.has_instances else SemanticWriter
    return kind(directory, spec)


def _has_loss(evaluate: EvaluateOptions) -> bool:
    # Truth in the place of outputs, or a CRF behind them, leaves a loss no meaning.
    return evaluate.with_loss and not (evaluate.oracle or evaluate.crf.setting)


def _make_metrics(
    system: System, source: RecordSource, extra_metrics: tuple[str, ...]
) -> dict[str, Any]:
    """Makes the metric classes by the keys of the report."""
    label_format = source.spec.label_format
    if system.labels_images:
        return {'accuracy': ClassAccuracy.for_format(label_format)}
    metrics: dict[str, Any] = {'miou': SemanticIoU.for_format(label_format)}
    if not system.has_instances:
        return metrics
    max_segments = _bound_segments(system, source)
    precision = CityscapesAP if source.spec.name == 'cityscapes' else InstanceAP
    kinds = {'pq': PanopticQuality, 'pc': ParsingCovering, 'ap': precision}
    for key in ('pq', *extra_metrics):
        metrics[key] = kinds[key].for_format(label_format, max_segments=max_segments)
    return metrics


def _make_table_function(system: System, source: RecordSource) -> Callable[..., dict[str, Array]]:
    return functools.partial(
        describe_images,
        label_format=source.spec.label_format,
        max_segments=_bound_segments(system, source),
        has_instances=system.has_instances,
    )


def _bound_segments(system: System, source: RecordSource) -> int:
    """Returns an upper bound on the segments of a label map, true or predicted."""
    return max(source.max_segments, system.max_segments)


def _warn_of_many_instances(system: System, source: RecordSource) -> None:
    max_objects = find_max_objects(system)
    if max_objects is not None and source.max_instances > max_objects:
        logging.warning(
            'an image of %s has %d objects, and at most %d are predicted: raise config.%s',
            source.directory,
            source.max_instances,
            max_objects,
            system.max_segments_field,
        )


def check_same_classes(trained: dict[str, Any], source: RecordSource, origin: Any) -> None:
    """Checks that a split has the classes that something else was made for.

    Args:
      trained: a dataset's `DatasetSpec.to_dict()`.
      source: the split.
      origin: where `trained` comes from, for the message.

    Raises:
      ValueError: classes or label formats differ.
    """
    trained_spec, spec = DatasetSpec.from_dict(trained), source.spec
    if _list_meanings(trained_spec) == _list_meanings(spec):
        return
    raise ValueError(
        f'{origin} has {trained_spec.num_classes} classes, '
        f'{", ".join(trained_spec.class_names[:4])}..., but {source} has {spec.num_classes}: '
        f'{", ".join(spec.class_names[:4])}...; set config.data.path to data with the same '
        f'categories in the same order, or start anew in another --workdir'
    )


def check_channels(experiment: Experiment, source: RecordSource) -> None:
    """Checks that the images of a split have the channels that a network takes.

    Raises:
      ValueError: they have another number of them.
    """
    wanted, found = experiment.data.num_channels, source.pixels.num_channels
    if wanted != found:
        raise ValueError(
            f'config.data.num_channels (={wanted}) is not that of {source}, {found}: set it to '
            f'{found}, or prepare the split with --num_channels={wanted}'
        )


def warn_of_other_range(trained: Mapping[str, Any], source: RecordSource, origin: Any) -> None:
    """Warns if the values of a split were scaled otherwise than those a network was trained on.

    Args:
      trained: the description of a checkpoint, or of something else with 'pixels'.
      source: the split.
      origin: where `trained` comes from, for the message.

    Raises:
      ValueError: the description is damaged.
    """
    if 'pixels' not in trained:
        # A checkpoint of an earlier version.
        return
    pixels = PixelFormat.from_dict(trained['pixels'], source=str(origin))
    if pixels.value_range == source.pixels.value_range:
        return
    shown = [
        format_range(found.value_range) if found.value_range else 'the range of each image'
        for found in (pixels, source.pixels)
    ]
    logging.warning(
        '%s was made for images whose values of more than 8 bits were scaled from %s, %s has '
        'scaled them from %s: prepare both with the same --value_range',
        origin,
        shown[0],
        source,
        shown[1],
    )


def _list_meanings(spec: DatasetSpec) -> tuple[Any, ...]:
    """Returns all that training depends on.

    That leaves out the label divisor, which follows from the fullest image of a split.
    """
    return spec.class_names, dataclasses.replace(spec.label_format, label_divisor=2)
