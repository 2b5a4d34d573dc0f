"""Every field a configuration has, with its default; the other files change what differs.

Units are in the names. `python -m pdl_jax.main --config=configs/coco.py --config.optimizer.learning_rate=1e-4` sets a
field from the command line.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: Panoptic-DeepLab with ResNet-50 at output stride 32, as DeepLab2 trains it on Cityscapes."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    # A directory written by `python -m pdl_jax.data.prepare`; local or gs://.
    config.data.path = ''
    config.data.train_split = 'train'
    config.data.eval_split = 'val'
    # Training images lie on a canvas of this size; larger ones are shrunk to fit. 0 takes the largest image's.
    config.data.canvas_height_px = 0
    config.data.canvas_width_px = 0
    # Processes that read and decode; 0 reads in threads of this process.
    config.data.num_workers = 0
    # Skip and count records that cannot be read instead of stopping.
    config.data.is_unreadable_skipped = False
    # Generated scenes to make at `path` when nothing is there; num_train = 0 makes none.
    config.data.scenes = ConfigDict()
    config.data.scenes.num_train = 0
    config.data.scenes.num_eval = 0
    config.data.scenes.height_px = 192
    config.data.scenes.width_px = 256
    config.data.scenes.seed = 0

    config.model = ConfigDict()
    config.model.backbone = 'resnet50'  # or resnet50_beta, mobilenet_v2
    config.model.output_stride = 32
    config.model.width_multiplier = 1.0
    # An .npz of published weights that the backbone starts from; '' starts at random.
    config.model.backbone_weights = ''
    config.model.is_backbone_norm_frozen = False
    # 'symmetric', or 'same' for backbones whose weights come from TF-slim or Keras.
    config.model.backbone_padding = 'symmetric'
    config.model.aspp_rates = (3, 6, 9)
    # 'train_crop' averages over the window of the training crop, 'global' over the whole map.
    config.model.aspp_pooling = 'train_crop'
    config.model.dropout_rate = 0.1
    config.model.semantic_features = 256
    config.model.semantic_low_level_features = (64, 32)
    config.model.semantic_aspp_features = 256
    config.model.semantic_head_features = 256
    config.model.instance_features = 128
    config.model.instance_low_level_features = (32, 16)
    config.model.instance_aspp_features = 256
    config.model.instance_head_features = 32
    config.model.norm_momentum = 0.99
    config.model.norm_epsilon = 1e-3
    # Of activations: 'auto' is bfloat16 on TPU and GPU and float32 on CPU, where bfloat16 is slow.
    config.model.dtype = 'auto'

    config.augment = ConfigDict()
    config.augment.crop_height_px = 1025
    config.augment.crop_width_px = 2049
    # First bring the shorter side to resize_min_px and the longer to at most resize_max_px; 0 for neither. Applies to
    # evaluation and prediction too.
    config.augment.resize_min_px = 0
    config.augment.resize_max_px = 0
    config.augment.min_scale = 0.5
    config.augment.max_scale = 2.0
    # Draw the scale from so many equidistant values, DeepLab2's recipe; 0 draws from the whole interval.
    config.augment.num_scales = 15
    config.augment.flip_probability = 0.5
    config.augment.normalization = 'unit'  # or per_image

    config.targets = ConfigDict()
    config.targets.sigma_px = 8.0
    config.targets.small_instance_area_px = 4096
    config.targets.small_instance_weight = 3.0
    config.targets.max_instances = 256
    config.targets.is_crowd_ignored = True

    config.loss = ConfigDict()
    config.loss.semantic_weight = 1.0
    config.loss.center_weight = 200.0
    config.loss.offset_weight = 0.01
    config.loss.top_k_fraction = 0.2

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2.5e-4
    config.optimizer.warmup_steps = 0
    config.optimizer.poly_power = 0.9
    config.optimizer.adam_b1 = 0.9
    config.optimizer.adam_b2 = 0.999
    config.optimizer.adam_epsilon = 1e-7
    config.optimizer.clip_norm = 0.0
    config.optimizer.ema_decay = 0.0

    config.train = ConfigDict()
    config.train.batch_size = 32  # over all devices and processes
    config.train.num_steps = 60_000
    config.train.log_every_steps = 100
    config.train.picture_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    config.train.evaluate_every_steps = 10_000
    # The newest so many and the one with the best PQ are kept.
    config.train.keep_checkpoints = 5

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 8

    config.postprocess = ConfigDict()
    config.postprocess.center_threshold = 0.1
    config.postprocess.nms_kernel_px = 13
    config.postprocess.max_centers = 200
    # Stuff of a smaller area in one image becomes void.
    config.postprocess.stuff_area_limit_px = 2048

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along the batch; -1 takes all that are left
    config.mesh.space = 1  # devices along image rows
    return config.lock()
