"""kMaX-DeepLab as a system: its targets and labels meet."""

import jax
import numpy as np
import pytest

from pdl_jax.commands.config_file import load_config
from pdl_jax.experiment import Experiment
from pdl_jax.typing import LabelFormat


def make_system(label_format, **overrides):
    flags = [f'--config.{name}={value}' for name, value in overrides.items()]
    config = load_config('scenes_kmax', flags)
    config.data.path = 'unused'
    return Experiment.from_config(config).system.make_system(label_format)


@pytest.mark.parametrize('ignore_label', [0, 255])
def test_the_truth_in_the_place_of_masks_and_classes_is_found_again(ignore_label):
    # Void is the first class, or none.
    label_format = LabelFormat(4, (1, 2), ignore_label, 256)
    system = make_system(label_format)
    panoptic = np.full((1, 33, 33), label_format.void_label, np.int32)
    panoptic[0, :16] = 3 * 256
    panoptic[0, 20:, :12] = 1 * 256 + 7
    panoptic[0, 20:, 12:20] = 1 * 256 + 9
    panoptic[0, 20:, 24:] = 2 * 256 + 1
    # A crowd, which is void for the loss.
    panoptic[0, 20:, 20:24] = 2 * 256
    rng = np.random.default_rng(0)
    num_classes = len(label_format.valid_classes)
    outputs = {
        'mask_logits': rng.normal(size=(1, 33, 33, 64)).astype(np.float32),
        'class_logits': rng.normal(size=(1, 64, num_classes + 1)).astype(np.float32),
    }

    @jax.jit
    def run(outputs):
        outputs = system.replace_by_truth(outputs, panoptic, ('class', 'mask'))
        return system.label_maps(outputs, size=(33, 33))

    maps = jax.tree.map(np.asarray, run(outputs))
    found = {}
    for label in (768, 263, 265, 513):
        labels = np.unique(maps.panoptic[panoptic == label])
        assert len(labels) == 1 and labels[0] // 256 == label // 256
        found[label] = labels[0]
        assert np.all(maps.semantic[panoptic == label] == label // 256)
    assert len(set(found.values())) == 4
    is_segment = np.isin(panoptic, list(found))
    assert np.all(maps.score[is_segment] > 0.5) and maps.score.max() <= 1 + 1e-6


def test_what_makes_no_sense_is_refused():
    for name in ('scenes', 'coco'):
        config = load_config(name)
        config.model.preset = 'kmax_pytorch/resnet50_coco'
        with pytest.raises(ValueError, match=r'configs/kmax\.py'):
            Experiment.from_config(config)
    for flag, words in (
        ('model.num_relaxed_layers=9', 'num_relaxed_layers'),
        ('model.query_features=60', 'multiple'),
        ('model.decoder_features=(1,2)', 'decoder_inputs'),
        ('evaluate.oracle=("center",)', 'class'),
        ('postprocess.pixel_threshold=0.2', '1/3'),
    ):
        config = load_config('scenes_kmax', [f'--config.{flag}'])
        with pytest.raises(ValueError, match=words):
            Experiment.from_config(config)
