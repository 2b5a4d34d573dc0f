"""Every field of a configuration of kMaX-DeepLab that common.py does not have, with its default.

The files *_kmax.py change what differs for their data. The preset decides fields without a value,
see pdl_jax/presets/kmax.py.
"""

from ml_collections import ConfigDict, config_dict

from configs import common


def get_config() -> ConfigDict:
    """The defaults: ResNet-50 of the PyTorch program, with its recipe for COCO."""
    config = common.get_config()
    use_fields(config)
    config.model.preset = 'kmax_pytorch/resnet50_coco'
    use_recipe(config)
    return config


def use_fields(config: ConfigDict) -> None:
    """Replaces the sections of Panoptic-DeepLab by those of a mask transformer."""
    with config.unlocked():
        config.targets = ConfigDict()
        config.loss = ConfigDict()
        config.postprocess = ConfigDict()

        # Segments of one crop that are learnt, the largest; stuff counts.
        config.targets.max_segments = 128
        config.targets.small_instance_area_px = 4096

        config.loss.class_weight = 3.0
        config.loss.mask_id_weight = 0.3
        config.loss.mask_dice_weight = 3.0
        config.loss.instance_discrimination_weight = 1.0
        config.loss.semantic_weight = 1.0
        config.loss.matched_share = 0.75
        config.loss.contrast_temperature = 0.3
        # Pixels of an image that are contrasted, and those whose class is learnt (0 for all),
        # which are drawn in proportion to (pixels / area of the segment) ** temperature.
        config.loss.instance_samples_px = 4096
        config.loss.instance_sample_temperature = config_dict.placeholder(float)
        config.loss.semantic_samples_px = config_dict.placeholder(int)
        config.loss.semantic_sample_temperature = config_dict.placeholder(float)
        config.loss.semantic_top_k_fraction = config_dict.placeholder(float)
        config.loss.small_instance_weight = config_dict.placeholder(float)
        # ReMaX: the degree of ReClass (ReMask is on in layers of config.model.num_relaxed_layers),
        # and whether every layer has a matching of its own.
        config.loss.class_relaxation = config_dict.placeholder(float)
        config.loss.is_each_layer_matched = config_dict.placeholder(bool)
        # Weight of the units that run in backbones with config.model.adaptive_computation.
        config.loss.ponder_weight = 0.005

        # Whose rules: 'pytorch' or 'deeplab2', and whether masks are pasted one after the other
        # ('mask_wise') or pixels choose ('pixel_wise').
        config.postprocess.convention = config_dict.placeholder(str)
        config.postprocess.merge_rule = config_dict.placeholder(str)
        config.postprocess.thing_threshold = config_dict.placeholder(float)
        config.postprocess.stuff_threshold = config_dict.placeholder(float)
        config.postprocess.pixel_threshold = config_dict.placeholder(float)
        config.postprocess.overlap_threshold = config_dict.placeholder(float)
        config.postprocess.class_exponent = config_dict.placeholder(float)
        config.postprocess.mask_exponent = config_dict.placeholder(float)
        config.postprocess.thing_area_limit_px = config_dict.placeholder(int)
        config.postprocess.stuff_area_limit_px = config_dict.placeholder(int)
        config.postprocess.min_score = config_dict.placeholder(float)
    # Open for the fields of any system, as in common.py.
    config.model.unlock()


def use_recipe(config: ConfigDict) -> None:
    """Sets the optimiser and the schedule of the published networks for COCO."""
    config.optimizer.kind = 'adamw'
    config.optimizer.learning_rate = 5e-4
    config.optimizer.backbone_learning_rate_factor = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.adam_epsilon = 1e-8
    config.optimizer.warmup_steps = 5000
    config.optimizer.warmup_start_factor = 1e-3
    config.train.batch_size = 64
    config.train.num_steps = 150_000
    config.augment.min_scale = 0.2
    config.augment.max_scale = 2.0
    config.augment.num_scales = 0


def use_strong_augmentation(config: ConfigDict) -> None:
    """Sets panoptic copy-paste and DeepLab2's colours; the PyTorch program jitters them instead."""
    config.augment.copy_paste_probability = 1.0
    config.augment.color_policy = 'simple_classification'
