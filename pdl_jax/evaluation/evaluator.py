"""Evaluation on a split: padded batches, metrics on the device, exact sums on the host, a report."""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from pdl_jax.config import (
    has_instances,
    input_size,
    make_augment_options,
    make_model,
    make_passes,
    make_target_options,
    postprocess_arguments,
    validate_config,
)
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.data.pipeline import make_eval_batches
from pdl_jax.data.records import RecordSource, open_split
from pdl_jax.evaluation.report import format_report, make_report, write_report
from pdl_jax.metrics.instance_ap import CityscapesAP, InstanceAP
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.metrics.parsing_covering import ParsingCovering
from pdl_jax.metrics.semantic_iou import SemanticIoU
from pdl_jax.ops.placement import replicate
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.prediction.formats import PanopticWriter, SemanticWriter
from pdl_jax.prediction.inference import abstract_variables, make_inference_step
from pdl_jax.runtime.processes import choose_together, compile_together
from pdl_jax.runtime.sharding import (
    batch_sharding,
    find_batch_shard,
    make_mesh,
    replicated,
    shard_batch,
)
from pdl_jax.storage.checkpoint import find_checkpoint, read_description, restore_variables
from pdl_jax.typing import PyTree


class Evaluator:
    """Scores variables on one split; compiled at the first call, then called as often as a run evaluates.

    Args:
      config: of the run.
      source: the split.
      mesh: the devices; the images of a batch are spread over its 'data' axis.
      predictions_dir: where to write predictions, see `data.predictions`; '' writes none.

    Attributes:
      step: jitted (variables, batch) -> (states of the metrics, predictions).
      batch_size: images of a batch, over all processes.

    Raises:
      ValueError: predictions are to be written by several processes.
    """

    def __init__(
        self,
        config: ConfigDict,
        source: RecordSource,
        mesh: jax.sharding.Mesh,
        *,
        predictions_dir: str = '',
    ):
        if predictions_dir and jax.process_count() > 1:
            raise ValueError('predictions are written by one process: evaluate on one host')
        self._config = config
        self._source = source
        self._mesh = mesh
        self._predictions_dir = predictions_dir
        # A batch is spread over the 'data' axis, so it is rounded up to a multiple of it; the padding is masked.
        data = mesh.shape['data']
        self.batch_size = -(-config.evaluate.batch_size // data) * data
        label_format = source.spec.label_format
        metrics = _make_metrics(config, source)
        # Things come from centres, stuff is one segment a class.
        max_predicted = config.postprocess.max_centers + label_format.num_classes
        has_scores = 'ap' in metrics or (bool(predictions_dir) and has_instances(config))
        describe = functools.partial(
            segment_table, label_format=label_format, max_segments=max_predicted
        )
        size = input_size(config, source.max_size)
        infer = make_inference_step(
            make_passes(config, label_format.num_classes, size),
            label_format=label_format,
            augment=make_augment_options(config),
            postprocess=postprocess_arguments(config),
            input_size=size,
            oracle=config.evaluate.oracle,
            targets=make_target_options(config),
        )

        def step(variables, batch):
            maps = infer(replicate(variables), batch['image'], batch['size'], batch['panoptic'])
            table = None
            if has_scores:
                table = jax.vmap(describe)(
                    maps['panoptic'], maps['class_probability'], maps['center_score']
                )
            states = {
                key: metric.from_model_output(
                    panoptic_label=batch['panoptic'],
                    panoptic_prediction=maps['panoptic'],
                    semantic_prediction=maps['semantic'],
                    segment_table=table,
                    size=batch['size'],
                    valid=batch['valid'],
                )
                for key, metric in metrics.items()
            }
            return states, (maps['panoptic'], table)

        # States are sums or tables over the global batch, so every process gets the same small arrays.
        self.step = jax.jit(step, out_shardings=(replicated(mesh), batch_sharding(mesh)))
        self._compiled = None
        self._metrics = metrics

    def __call__(
        self,
        variables: PyTree,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """Evaluates.

        Args:
          variables: {'params', 'batch_stats'} on the mesh.
          is_stopped: asked before every batch whether to give up.

        Returns:
          The report, see `make_report`; None where `is_stopped` said so.

        Raises:
          ValueError: an image cannot be read.
        """
        config, source = self._config, self._source
        shard_index, shard_count = find_batch_shard(self._mesh)
        batches = make_eval_batches(
            source, batch_size=self.batch_size, shard_index=shard_index, shard_count=shard_count
        )
        writer = None
        if self._predictions_dir:
            make_writer = PanopticWriter if has_instances(config) else SemanticWriter
            writer = make_writer(self._predictions_dir, source.spec)
        totals = {key: metric.empty() for key, metric in self._metrics.items()}
        start = time.monotonic()
        pending = None
        for batch in batches:
            if is_stopped():
                return None
            sharded = shard_batch(batch, self._mesh)
            with jax.set_mesh(self._mesh):
                if self._compiled is None:
                    self._compiled = compile_together(
                        self.step, variables, sharded, name='the evaluation step'
                    )
                states, predictions = self._compiled(variables, sharded)
            # The batch before is read while this one runs.
            if pending is not None:
                totals = self._collect(totals, *pending, writer)
            pending = states, predictions, batch
        if pending is not None:
            totals = self._collect(totals, *pending, writer)
        if writer is not None:
            writer.close()
        values = {key: total.compute() for key, total in totals.items()}
        logging.info('evaluated %d images in %.1f s', len(source), time.monotonic() - start)
        return make_report(values, source.spec, num_images=len(source))

    def _collect(self, totals, states, predictions, batch, writer):
        states = jax.device_get(states)
        if writer is not None:
            panoptic, table = jax.device_get(predictions)
            for i in np.flatnonzero(batch['valid']):
                height, width = batch['size'][i]
                info = self._source.info(int(batch['record'][i]))
                writer.write(
                    panoptic[i, :height, :width],
                    image_id=info['image_id'],
                    file_name=info['annotation_file_name'],
                    scores=dict(
                        zip(table['label'][i].tolist(), table['score'][i].tolist(), strict=True)
                    )
                    if table
                    else {},
                )
        return {key: total.merge(states[key]) for key, total in totals.items()}


def _make_metrics(config, source):
    """The metric classes of a configuration by the keys of the report."""
    label_format = source.spec.label_format
    metrics = {'miou': SemanticIoU.for_format(label_format)}
    if not has_instances(config):
        return metrics
    # No label map has more, nor can a prediction.
    max_segments = max(
        source.max_segments, config.postprocess.max_centers + label_format.num_classes
    )
    precision = CityscapesAP if source.spec.name == 'cityscapes' else InstanceAP
    kinds = {'pq': PanopticQuality, 'pc': ParsingCovering, 'ap': precision}
    for key in ('pq', *config.evaluate.extra_metrics):
        metrics[key] = kinds[key].for_format(label_format, max_segments=max_segments)
    return metrics


def evaluate_checkpoint(
    config: ConfigDict, workdir: str, *, checkpoint: str, is_prediction_written: bool = False
) -> dict[str, Any]:
    """Scores a checkpoint on the eval split; prints the table and writes workdir/report.json.

    Args:
      config: gives the data and the network; it must fit the checkpoint.
      workdir: where the report and the predictions go.
      checkpoint: a workdir or one step of it.
      is_prediction_written: whether the predictions are written to the workdir, see `data.predictions`.

    Raises:
      FileNotFoundError: there is no such checkpoint or split.
      ValueError: the checkpoint has other classes or another architecture.
    """
    validate_config(config)
    path = epath.Path(choose_together(functools.partial(find_checkpoint, checkpoint)))
    source = open_split(config.data.path, config.data.eval_split)
    check_same_classes(read_description(path)['dataset'], source, path)
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    model = make_model(config, source.spec.num_classes)
    variables = restore_variables(path, abstract_variables(model), replicated(mesh))
    report = Evaluator(
        config, source, mesh, predictions_dir=workdir if is_prediction_written else ''
    )(variables)
    if jax.process_index() == 0:
        write_report(report, os.path.join(workdir, 'report.json'))
        print(f'{path} on {source}:\n{format_report(report)}')
    return report


def check_same_classes(trained: dict[str, Any], source: RecordSource, origin: Any) -> None:
    """Checks that a split has the classes that something else was made for.

    Args:
      trained: a dataset's `DatasetSpec.to_dict()`.
      source: the split.
      origin: names where `trained` comes from.

    Raises:
      ValueError: classes or label formats differ.
    """
    trained = DatasetSpec.from_dict(trained)
    spec = source.spec
    if (trained.class_names, trained.label_format) == (spec.class_names, spec.label_format):
        return
    raise ValueError(
        f'{origin} has {trained.num_classes} classes, {", ".join(trained.class_names[:4])}..., but {source} has '
        f'{spec.num_classes}: {", ".join(spec.class_names[:4])}...; set config.data.path to data with the same '
        f'categories in the same order, or start anew in another --workdir'
    )
