"""A kMaX-DeepLab that compiles within seconds and learns from tiny scenes."""

import pathlib

_CONFIG = """
from configs import scenes_kmax

def get_config():
    config = scenes_kmax.get_config()
    config.model.backbone = 'tests.toy_backbone:make_backbone'
    config.model.decoder_inputs = ('last', 'stride8')
    config.model.decoder_blocks = ('axial', 'bottleneck')
    config.model.decoder_features = (8, 8)
    config.model.decoder_depths = (1, 1)
    config.model.transformer_depths = (1,)
    config.model.num_queries = 16
    config.model.query_features = config.model.ffn_features = 16
    config.model.mask_features = 8
    config.model.num_heads = 2
    config.model.num_relaxed_layers = 1
    config.loss.class_relaxation = 0.1
    config.loss.instance_samples_px = 64
    config.targets.max_segments = 16
    config.augment.crop_height_px = config.augment.crop_width_px = 65
    config.postprocess.thing_threshold = config.postprocess.stuff_threshold = 0.0
    config.train.batch_size, config.train.num_steps = 8, 2
    config.train.log_every_steps = 1
    config.train.picture_every_steps = config.train.evaluate_every_steps = 2
    config.evaluate.batch_size = 8
    return config
"""


def write_config(folder: pathlib.Path) -> str:
    """Writes the configuration, whose path it returns."""
    path = folder / 'tiny_kmax.py'
    path.write_text(_CONFIG)
    return str(path)
