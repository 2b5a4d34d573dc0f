"""Ground truth comes back from targets and post-processing, and from prediction files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdl_jax.data.images import decode_ids
from pdl_jax.data.pipeline import make_eval_batches
from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.readers import panoptic_folder
from pdl_jax.data.records import open_split
from pdl_jax.data.scenes import dataset as scenes
from pdl_jax.metrics.panoptic_quality import PanopticQuality
from pdl_jax.postprocess.centers import find_centers
from pdl_jax.postprocess.grouping import group_pixels
from pdl_jax.postprocess.merge import merge_panoptic
from pdl_jax.prediction.formats import PanopticWriter
from pdl_jax.preprocess.targets import TargetOptions, make_targets

MAX_INSTANCES = 128


@pytest.fixture(scope='module')
def coco(shared_dir, tmp_path_factory):
    folder = shared_dir / 'data' / 'coco_panoptic_200' / 'val'
    out = tmp_path_factory.mktemp('coco')
    prepare_panoptic_folder(
        images_dir=folder / 'images',
        panoptic_dir=folder / 'panoptic_val',
        json_path=folder / 'panoptic_val.json',
        out_dir=out,
        split='val',
        num_processes=0,
    )
    return open_split(out, 'val')


@pytest.fixture(scope='module')
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp('generated')
    scenes.write_scenes(folder / 'raw', num_train=1, num_val=24, num_processes=1)
    prepare_panoptic_folder(
        images_dir=folder / 'raw' / 'val' / 'images',
        panoptic_dir=folder / 'raw' / 'val' / 'panoptic_val',
        json_path=folder / 'raw' / 'val' / 'panoptic_val.json',
        out_dir=folder / 'data',
        split='val',
        num_processes=0,
    )
    return open_split(folder / 'data', 'val')


def _reconstruct(panoptic, label_format):
    """Post-processes targets in the place of predictions, with the stuff filter off."""
    options = TargetOptions(max_instances=MAX_INSTANCES)
    targets = make_targets(panoptic, label_format=label_format, options=options)
    centers, _, valid = find_centers(
        targets['center'], threshold=0.1, kernel_px=41, max_centers=MAX_INSTANCES
    )
    instance = group_pixels(centers, valid, targets['offset'])
    return merge_panoptic(
        targets['semantic'],
        instance,
        label_format=label_format,
        max_instances=MAX_INSTANCES,
        stuff_area_limit=0,
    )


def _count_shared_centers(panoptic, label_format):
    """Counts instances with the rounded centre of another: no target tells these apart."""
    centers = []
    for label in np.unique(panoptic):
        semantic, instance = divmod(int(label), label_format.label_divisor)
        if instance and semantic != label_format.ignore_label:
            y, x = np.nonzero(panoptic == label)
            centers.append((round(y.mean()), round(x.mean())))
    return len(centers) - len(set(centers))


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['coco', 'generated'])
def test_targets_and_post_processing_give_pq_100(dataset, request):
    source = request.getfixturevalue(dataset)
    label_format = source.spec.label_format
    metric = PanopticQuality.for_format(label_format, max_segments=256)
    reconstruct = jax.jit(jax.vmap(lambda panoptic: _reconstruct(panoptic, label_format)))
    total, num_shared = metric.empty(), 0
    score = jax.jit(
        lambda label, prediction, valid: metric.from_model_output(
            panoptic_label=label, panoptic_prediction=prediction, valid=valid
        )
    )
    for batch in make_eval_batches(source, batch_size=4):
        shared = [_count_shared_centers(p, label_format) for p in batch['panoptic']]
        num_shared += sum(shared)
        prediction = reconstruct(jnp.asarray(batch['panoptic']))
        valid = batch['valid'] & (np.array(shared) == 0)
        total = total.merge(jax.device_get(score(batch['panoptic'], prediction, valid)))
    result = total.compute()
    assert result['All']['pq'] == pytest.approx(1.0, abs=1e-6)
    assert result['Things']['n'] >= 5 and result['Stuff']['n'] >= 5
    # Concentric objects are rare: were there many, PQ 100 on the other images would say little.
    assert num_shared <= 2


@pytest.mark.slow
def test_ground_truth_written_as_predictions_scores_100(coco, tmp_path):
    spec = coco.spec
    writer = PanopticWriter(str(tmp_path), spec)
    for i in range(len(coco)):
        info = coco.info(i)
        panoptic = coco.decode(i)[1]
        scores = dict.fromkeys(np.unique(panoptic).tolist(), 1.0)
        writer.write(
            panoptic, image_id=info['image_id'], file_name=info['file_name'], scores=scores
        )
    writer.close()

    metric = PanopticQuality.for_format(spec.label_format, max_segments=256)
    score = jax.jit(
        lambda label, prediction: metric.from_model_output(
            panoptic_label=label, panoptic_prediction=prediction, valid=jnp.ones(1, bool)
        )
    )
    annotations = json.loads((tmp_path / 'predictions.json').read_text())['annotations']
    assert len(annotations) == 59
    total = metric.empty()
    for i, annotation in enumerate(annotations):
        assert annotation['image_id'] == coco.info(i)['image_id']
        ids = decode_ids(
            (tmp_path / 'predictions' / annotation['file_name']).read_bytes(), name='p'
        )
        segments = annotation['segments_info']
        assert sorted(set(np.unique(ids)) - {0}) == [segment['id'] for segment in segments]
        # Rebuilt from the files alone: a fresh instance number for every segment of a class.
        prediction = np.full(ids.shape, spec.label_format.void_label, np.int32)
        for segment in segments:
            mask = ids == segment['id']
            assert mask.sum() == segment['area']
            x, y, width, height = segment['bbox']
            assert mask[y : y + height, x : x + width].sum() == segment['area']
            semantic = spec.class_of_category[segment['category_id']]
            is_thing = semantic in spec.label_format.thing_classes
            prediction[mask] = semantic * spec.label_divisor + (segment['id'] if is_thing else 0)
        label = coco.decode(i)[1]
        padding = [(0, 640 - n) for n in label.shape]
        label, prediction = (
            np.pad(x, padding, constant_values=spec.label_format.void_label)[None]
            for x in (label, prediction)
        )
        total = total.merge(jax.device_get(score(label, prediction)))
    result = total.compute()
    assert result['All']['pq'] == pytest.approx(1.0, abs=1e-6)
    assert result['per_class']['fp'].sum() == 0 and result['per_class']['fn'].sum() == 0


def test_official_reader_and_records_agree(coco, shared_dir):
    folder = shared_dir / 'data' / 'coco_panoptic_200' / 'val'
    read = panoptic_folder.read_folder(
        images_dir=folder / 'images',
        panoptic_dir=folder / 'panoptic_val',
        json_path=folder / 'panoptic_val.json',
    )
    record = panoptic_folder.load_record(read, read.entries[7])
    np.testing.assert_array_equal(record.panoptic, coco.decode(7)[1])
