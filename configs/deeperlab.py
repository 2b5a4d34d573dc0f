"""Every field of a configuration of DeeperLab that common.py does not have, with its default.

The files *_deeperlab.py change what differs for their data.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The defaults: Xception-71 with the paper's schedule."""
    config = common.get_config()
    use_fields(config)
    use_recipe(config)
    return config


def use_fields(config: ConfigDict) -> None:
    """Replaces the sections of Panoptic-DeepLab by DeeperLab's."""
    with config.unlocked():
        config.targets = ConfigDict()
        config.loss = ConfigDict()
        config.postprocess = ConfigDict()

        # Radius of the discs around keypoints.
        config.targets.radius_px = 10.0
        config.targets.small_instance_area_px = 4096
        config.targets.small_instance_weight = 3.0
        config.targets.max_instances = 256
        config.targets.is_crowd_ignored = True

        config.loss.semantic_weight = 1.0
        config.loss.keypoint_weight = 4.0
        config.loss.short_weight = 0.1
        config.loss.middle_weight = 0.02
        config.loss.long_weight = 0.02
        # Share of the pixels, those with the least probable true class, that count.
        config.loss.top_k_fraction = 0.15
        # Weight of the units that run in backbones with config.model.adaptive_computation.
        config.loss.ponder_weight = 0.005

        # That of the targets.
        config.postprocess.radius_px = config.targets.get_ref('radius_px')
        # Share of a disc whose votes begin an instance, and how many may per kind of keypoint.
        config.postprocess.keypoint_threshold = 0.01
        config.postprocess.max_candidates = 200
        config.postprocess.max_instances = 200
        # Times that predicted positions follow the short-range offsets that they meet.
        config.postprocess.num_refinements = 2
        # Stuff of a smaller area in one image becomes void.
        config.postprocess.stuff_area_limit_px = 2048
        # Things of a lower score, or of a smaller area in the original image, become void.
        config.postprocess.min_score = 0.0
        config.postprocess.min_area_px = 0
    config.model.preset = 'deeperlab/xception71'
    # Open for the fields of any system, as in common.py.
    config.model.unlock()


def use_recipe(config: ConfigDict) -> None:
    """Sets the optimiser and the schedule of the paper, and its second metric."""
    config.optimizer.kind = 'sgd'
    config.optimizer.learning_rate = 0.01
    config.train.batch_size = 16
    config.train.num_steps = 500_000
    config.evaluate.extra_metrics = ('pc',)
