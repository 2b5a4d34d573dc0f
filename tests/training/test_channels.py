"""A run on images of five channels: prepared, trained, evaluated, predicted, drawn."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from pdl_jax.data.prepare import prepare_panoptic_folder
from pdl_jax.data.records import open_split
from pdl_jax.evaluation.checkpoint import evaluate_checkpoint
from pdl_jax.prediction.predict_files import predict_files
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from pdl_jax.training.loop import train
from tests import tiny
from tests.convert.compiling import compiling_fast
from tests.data import tiny_folder
from tests.process_group import BARE_NETWORK


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
    with compiling_fast():
        yield


def prepare(root, num_channels):
    """Prepares TIFF files of 12 bits, whose objects are in the last channel only."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        folder = tiny_folder.write_tiny_folder(root / split, 4)
        content = json.loads(folder['json_path'].read_text())
        for index, entry in enumerate(content['images']):
            ids, _ = tiny_folder.make_ids(index)
            values = rng.integers(0, 900, (num_channels, *ids.shape), dtype=np.uint16)
            values[-1] += (ids > 0) * np.uint16(3000)
            (folder['images_dir'] / entry['file_name']).unlink()
            entry['file_name'] = f'{index:06d}.tif'
            tifffile.imwrite(
                folder['images_dir'] / entry['file_name'], values, photometric='minisblack'
            )
        folder['json_path'].write_text(json.dumps(content))
        prepare_panoptic_folder(
            **folder,
            out_dir=root / 'data',
            split=split,
            num_processes=0,
            num_channels=num_channels,
        )
    return root / 'data'


def make_experiment(data, **changes):
    network = {key.replace('.', '__'): value for key, value in BARE_NETWORK.items()}
    fields = {
        'data__num_classes': 0,
        'train__batch_size': 2,
        'train__num_steps': 2,
        'train__picture_every_steps': 2,
        'evaluate__batch_size': 2,
    }
    return tiny.make_experiment(data, **{**network, **fields, **changes})


@pytest.mark.slow
def test_a_run_on_other_channels(tmp_path):
    num_channels = 5
    data = prepare(tmp_path, num_channels)
    wrong = make_experiment(data)
    message = rf'config\.data\.num_channels \(=3\) is not that of .*, {num_channels}: set it to'
    with pytest.raises(ValueError, match=message):
        train(wrong, str(tmp_path / 'wrong'), devices=tiny.one_device())
    experiment = make_experiment(
        data,
        data__num_channels=num_channels,
        data__canvas_height_px=20,
        data__canvas_width_px=20,
        model__normalization='given',
        model__pixel_mean=tuple(100.0 + i for i in range(num_channels)),
        model__pixel_deviation=(50.0,) * num_channels,
    )
    workdir = tmp_path / 'run'
    train(experiment, str(workdir), devices=tiny.one_device())
    assert list((workdir / 'pictures').rglob('*.png'))
    source = open_split(data, 'val')
    description = read_description(find_checkpoint(workdir))
    assert description['pixels'] == source.pixels.to_dict()
    report = evaluate_checkpoint(
        None, str(tmp_path / 'report'), checkpoint=str(workdir), devices=tiny.one_device()
    )
    assert report['num_images'] == 4

    predictor = Predictor.load(workdir)
    assert predictor.pixels == source.pixels
    path = tmp_path / 'val/images/000001.tif'
    rgb = tmp_path / 'rgb.png'
    Image.new('RGB', (32, 24), (1, 2, 3)).save(rgb)
    output = tmp_path / 'out'
    output.mkdir()
    failures = predict_files(predictor, [str(path), str(rgb)], output)
    assert len(failures) == 1 and f'has 3 channels, not the {num_channels}' in failures[0]
    overlay = np.asarray(Image.open(output / '000001_overlay.png'))
    assert overlay.shape == (480, 640, 3)  # enlarged by 20
    # The file gives what the record gave.
    expected = predictor(source.decode(1)[0])
    segments = json.loads((output / '000001.json').read_text())['segments']
    assert segments == json.loads(json.dumps(expected.to_json()))
    with pytest.raises(ValueError, match=rf'not the {num_channels} of num_channels'):
        predictor(np.zeros((24, 32, 3), np.uint8))
