"""Every field of a search of architectures that the training of its students lacks.

The files search_*.py change what differs; pdl_jax/search/options.py explains all fields.
"""

from ml_collections import ConfigDict

from configs import scenes_classes


def get_config() -> ConfigDict:
    """A search of backbones for the generated images of scenes_classes.py."""
    config = scenes_classes.get_config()
    use_search(config)
    return config


def use_search(config: ConfigDict) -> None:
    """Adds the section `search`."""
    with config.unlocked():
        config.search = ConfigDict()
        # 'akd' rewards accuracy after distillation from config.distill.teacher; 'nas' has no
        # teacher; 'random' draws architectures by chance.
        config.search.method = 'akd'
        # 'small' (three stages) or 'mobilenet' (seven) for config.model.backbone = 'mobile_blocks',
        # 'dense_prediction_cell' for a semantic network with a trained encoder.
        config.search.space = 'small'
        # Run again with more students, a search goes on.
        config.search.num_students = 64
        # Architectures between two updates of the controller.
        config.search.students_per_round = 16
        # Share of the training images that rewards are measured on.
        config.search.holdout_share = 0.2
        # 'multiply_adds' of an image, or 'measured' milliseconds of a batch of
        # config.evaluate.batch_size images on this device; the target is in the same unit.
        config.search.latency = 'multiply_adds'
        config.search.target_latency = 1e6
        config.search.latency_exponent = -0.07
        # Share of random architectures that are the best one with one decision changed.
        config.search.mutation_share = 0.0
        # Best students to train again on all training images, from scratch and with the teacher if
        # there is one, and to score on the eval split.
        config.search.num_final = 0
        config.search.final_steps = 0

        config.search.controller = ConfigDict()
        config.search.controller.features = 100
        config.search.controller.learning_rate = 2e-3
        config.search.controller.clip_ratio = 0.2
        config.search.controller.entropy_weight = 1e-3
        config.search.controller.baseline_decay = 0.9
        config.search.controller.num_epochs = 8
    # Open for the fields of any system, as in common.py.
    config.model.unlock()
