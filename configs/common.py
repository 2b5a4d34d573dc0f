"""Every field of a configuration with its default; the other files change what differs.

Units are in the names. The command line sets a field:

    pdl_jax train --config=coco --workdir=runs/coco --config.optimizer.learning_rate=1e-4
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """The defaults: DeepLab2's Panoptic-DeepLab with ResNet-50, stride 32, for Cityscapes."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    # A directory written by `pdl_jax prepare`; local or gs://.
    config.data.path = ''
    config.data.train_split = 'train'
    config.data.eval_split = 'val'
    # Number of logits, for a network without its data (pdl_jax summary, pdl_jax plan); 0 takes that
    # of the data.
    config.data.num_classes = 0
    # Channels of images, as they were prepared (pdl_jax prepare --num_channels): 1 for grey, 3 for
    # RGB. The first convolution of initial weights is adapted.
    config.data.num_channels = 3
    # Training images lie on a canvas of this size; larger ones are shrunk to fit. 0 takes the size
    # of the largest image.
    config.data.canvas_height_px = 0
    config.data.canvas_width_px = 0
    # Processes that read and decode; 0 reads in threads of this process.
    config.data.num_workers = 0
    # Skip and count records that cannot be read instead of stopping.
    config.data.skip_unreadable = False
    # Scenes to generate at `path` if nothing is there; num_train = 0 generates none. The kind is
    # 'panoptic', or 'classes' for images of one object each, to classify.
    config.data.scenes = ConfigDict()
    config.data.scenes.kind = 'panoptic'
    config.data.scenes.num_train = 0
    config.data.scenes.num_eval = 0
    config.data.scenes.height_px = 192
    config.data.scenes.width_px = 256
    config.data.scenes.seed = 0

    config.model = ConfigDict()
    # A recipe by name, see pdl_jax/presets: a system, its network, and the rules of its targets,
    # loss and post-processing. Fields of the network set here override it, such as
    # config.model.backbone = 'convnext_tiny': pdl_jax/models/options.py explains all of them. A
    # backbone of your own is 'module:function', in a module beside the configuration.
    config.model.preset = 'deeplab2/resnet50_os32'
    # A checkpoint to start from, of an earlier run or of `pdl_jax convert`; every variable that
    # fits is loaded. '' starts from scratch.
    config.model.init_checkpoint = ''
    # Use the backbone's stored BatchNorm statistics in training too.
    config.model.freeze_backbone_norm = config_dict.placeholder(bool)
    # The dtype of activations: 'auto' is bfloat16 on TPU and GPU and float32 on CPU, where bfloat16
    # is slow.
    config.model.dtype = 'auto'

    config.augment = ConfigDict()
    config.augment.crop_height_px = 1025
    config.augment.crop_width_px = 2049
    # First bring the shorter side to resize_min_px and the longer to at most resize_max_px; 0 for
    # neither. Applies to evaluation and prediction too.
    config.augment.resize_min_px = 0
    config.augment.resize_max_px = 0
    # The rounding of sizes, the resampling and the place of small images in the crop: that of
    # 'deeplab2' or 'model_garden', or for classifiers 'torchvision', see
    # pdl_jax/preprocess/augment.py.
    config.augment.convention = 'deeplab2'
    config.augment.min_scale = 0.5
    config.augment.max_scale = 2.0
    # Draw the scale from so many equidistant values, DeepLab2's recipe; 0 draws from the whole
    # interval.
    config.augment.num_scales = 15
    # In the place of a scale, the convention 'torchvision' of classifiers draws a part of the
    # image: its share of the area, and the ratio of its sides, at most this.
    config.augment.min_crop_share = 0.08
    config.augment.max_crop_share = 1.0
    config.augment.max_crop_aspect = 4 / 3
    config.augment.flip_probability = 0.5
    # The rest is switched off. All of it happens on the devices, by chance for each image.
    config.augment.vertical_flip_probability = 0.0
    # Turns by 90, 180 or 270 degrees; 0.75 makes all four orientations alike.
    config.augment.quarter_turn_probability = 0.0
    # Rotation by any angle up to this, to both sides.
    config.augment.max_rotation_degrees = 0.0
    config.augment.rotation_probability = 1.0
    # torchvision's ColorJitter: 0.4 draws a factor from [0.6, 1.4], a hue of 0.1 shifts by up to a
    # tenth of the colour circle.
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0
    config.augment.color_probability = 1.0
    # AutoAugment's operations, drawn by a policy: 'simple_classification' (kMaX-DeepLab's for COCO;
    # with a magnitude of 0.2 its for Cityscapes and Panoptic-DeepLab's for COCO), see
    # pdl_jax/preprocess/color_policy.py.
    config.augment.color_policy = ''
    config.augment.color_policy_magnitude = 1.0
    # Gaussian blur and noise; the noise in grey levels, of 255.
    config.augment.max_blur_sigma_px = 0.0
    config.augment.blur_probability = 1.0
    config.augment.max_noise_deviation = 0.0
    config.augment.noise_probability = 1.0
    # Paste the things and some stuff of another image of the batch over an image, kMaX-DeepLab's
    # recipe with a probability of 1; the other image has scales of its own, these times the factor.
    config.augment.copy_paste_probability = 0.0
    config.augment.copy_paste_scale = 0.5
    # Functions of your own as 'module:function', in a module beside the configuration.
    config.augment.extra = ()

    config.targets = ConfigDict()
    config.targets.sigma_px = 8.0
    config.targets.small_instance_area_px = 4096
    config.targets.small_instance_weight = 3.0
    config.targets.max_instances = 256
    # The preset decides fields without a value, see pdl_jax/presets.
    config.targets.is_crowd_ignored = config_dict.placeholder(bool)
    config.targets.center_rounding = config_dict.placeholder(str)
    config.targets.is_offset_to_pixel = config_dict.placeholder(bool)
    config.targets.is_crowd_drawn = config_dict.placeholder(bool)
    config.targets.is_crowd_instance = config_dict.placeholder(bool)

    config.loss = ConfigDict()
    config.loss.semantic_weight = 1.0
    config.loss.center_weight = 200.0
    config.loss.offset_weight = config_dict.placeholder(float)
    config.loss.top_k_fraction = 0.2
    config.loss.scope = config_dict.placeholder(str)
    config.loss.semantic_size = config_dict.placeholder(str)
    # Factors of the semantic loss by class: a number per class, pairs such as (('car', 2.0),) by
    # name or index, or ('from_frequencies',): median frequency balancing of the training split.
    config.loss.class_weights = ()
    # Weight of the units that run in backbones with config.model.adaptive_computation.
    config.loss.ponder_weight = 0.005
    # Functions of your own as 'module:function', whose results are added.
    config.loss.extra = ()

    config.optimizer = ConfigDict()
    # 'adam' (Panoptic-DeepLab), 'adamw' (kMaX-DeepLab) or 'sgd' with momentum (the semantic
    # DeepLabs).
    config.optimizer.kind = 'adam'
    # The peak of the schedule, and a factor of it for the parameters of the backbone; a factor of 0
    # freezes them.
    config.optimizer.learning_rate = 2.5e-4
    config.optimizer.backbone_learning_rate_factor = 1.0
    # Steps over which the rate rises linearly, from this factor of the peak.
    config.optimizer.warmup_steps = 0
    config.optimizer.warmup_start_factor = 0.0
    # The decay: 'poly' or 'cosine' to 0 over the whole run, or 'step'.
    config.optimizer.schedule = 'poly'
    config.optimizer.poly_power = 0.9
    # Of 'step': steps after which the rate is multiplied by the factor.
    config.optimizer.decay_at_steps = ()
    config.optimizer.decay_factor = 0.1
    config.optimizer.momentum = 0.9  # of sgd
    # With 'adam' and 'sgd' an L2 penalty on convolution kernels, added to their gradients;
    # depthwise kernels, biases and BatchNorm have none, as in TF DeepLab. With 'adamw' the share of
    # all kernels, depthwise ones too, that a step takes away, times its learning rate.
    config.optimizer.weight_decay = 0.0
    # Decays of the two moments, and what is added to the root of the second: 1e-7 in Keras, 1e-8 in
    # PyTorch.
    config.optimizer.adam_b1 = 0.9
    config.optimizer.adam_b2 = 0.999
    config.optimizer.adam_epsilon = 1e-7
    # Global norm to which larger gradients are scaled down; 0 leaves them.
    config.optimizer.clip_norm = 0.0
    # Decay of the averaged variables, which evaluation and prediction use; 0 keeps no average.
    config.optimizer.ema_decay = 0.0

    config.train = ConfigDict()
    config.train.batch_size = 32  # over all devices and processes
    # Compute a batch that is too large for the memory in so many parts, one after the other; see
    # pdl_jax/training/gradient_accumulation.py.
    config.train.accumulation_steps = 1
    # If it still is: regexes of modules whose inside the backward pass computes again, such as
    # ('backbone/stage._block',).
    config.train.remat = ()
    config.train.num_steps = 60_000
    config.train.log_every_steps = 100
    config.train.picture_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    config.train.evaluate_every_steps = 10_000
    # The newest checkpoints, so many, and the one with the best PQ, or mIoU of a semantic network,
    # or top-1 accuracy of a classifier, are kept.
    config.train.keep_checkpoints = 5
    # End after so many evaluations without a better value of 'score' (that of the best checkpoint),
    # 'pq', 'pq_things', 'pq_stuff', 'miou', 'pixel_accuracy', 'top1', 'top5' or 'loss'; 0 trains to
    # num_steps.
    config.train.early_stopping_evals = 0
    config.train.early_stopping_metric = 'score'
    # Minutes of training, without compiling and evaluations, to fit num_steps to: the first steps
    # of a new run are timed, and the run ends after so many minutes. 0 trains num_steps.
    config.train.max_minutes = 0.0
    # Services to log to as well, any of 'wandb' and 'mlflow'.
    config.train.writers = ()

    config.distill = ConfigDict()
    # A checkpoint or workdir of a network of the same classes, whose outputs are learnt beside the
    # labels; '' for none.
    config.distill.teacher = ''
    # By which the logits of both are divided.
    config.distill.temperature = 1.0
    # Weight of the teacher; the labels have the rest.
    config.distill.weight = 0.5
    # The outputs that are compared, such as ('semantic', 'offset'); () for all that both have.
    config.distill.terms = ()

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 8
    # Average the outputs over the image at several scales, and over its mirror image.
    config.evaluate.scales = (1.0,)
    config.evaluate.is_flipped = False
    # Put the ground truth in the place of these outputs, any of 'semantic', 'center', 'offset', to
    # see what the others cost.
    config.evaluate.oracle = ()
    # For panoptic networks beside PQ and mIoU: 'ap' (by the rules of Cityscapes for its data, else
    # of COCO), 'pc' (Parsing Covering).
    config.evaluate.extra_metrics = ()
    # Compute the loss of the eval split too: eval/loss and its terms.
    config.evaluate.with_loss = False
    # Refine the class probabilities by a fully connected CRF: a name of SETTINGS in
    # pdl_jax/postprocess/dense_crf.py, such as 'voc_v2'; '' for none. The other fields override the
    # setting's.
    config.evaluate.crf = ConfigDict()
    config.evaluate.crf.setting = ''
    config.evaluate.crf.bilateral_weight = config_dict.placeholder(float)
    config.evaluate.crf.bilateral_px = config_dict.placeholder(float)
    config.evaluate.crf.bilateral_color = config_dict.placeholder(float)
    config.evaluate.crf.spatial_weight = config_dict.placeholder(float)
    config.evaluate.crf.spatial_px = config_dict.placeholder(float)
    config.evaluate.crf.num_iterations = config_dict.placeholder(int)
    config.evaluate.crf.normalization = config_dict.placeholder(str)
    config.evaluate.crf.filter = config_dict.placeholder(str)

    config.postprocess = ConfigDict()
    config.postprocess.center_threshold = 0.1
    config.postprocess.nms_kernel_px = 13
    config.postprocess.max_centers = 200
    # Stuff of a smaller area in one image becomes void.
    config.postprocess.stuff_area_limit_px = 2048
    # Things of a lower score, or of a smaller area in the original image, become void.
    config.postprocess.min_score = 0.0
    config.postprocess.min_area_px = 0
    config.postprocess.top_k_rule = config_dict.placeholder(str)
    config.postprocess.score_rule = config_dict.placeholder(str)
    config.postprocess.is_limit_void = config_dict.placeholder(bool)
    config.postprocess.is_rest_instance = config_dict.placeholder(bool)
    config.postprocess.is_padding_cut = config_dict.placeholder(bool)
    config.postprocess.is_at_original_size = config_dict.placeholder(bool)

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along the batch; -1 takes all that are left
    config.mesh.space = 1  # devices along image rows
    # Arrays of the training state to split over the devices along the batch: (regex, rule) pairs,
    # of which the first match decides. (('.*', 'largest'),) splits all large ones, see
    # pdl_jax/runtime/sharding.py.
    config.mesh.param_rules = ()
    config.lock()
    # Open for the fields of any system; `Experiment.from_config` refuses unknown ones.
    config.model.unlock()
    return config


def use_crop(config: ConfigDict, height_px: int, width_px: int) -> None:
    """Sets the size of training crops."""
    config.augment.crop_height_px = height_px
    config.augment.crop_width_px = width_px


def use_cityscapes(config: ConfigDict, path: str = 'data/cityscapes') -> None:
    """Sets the data of Cityscapes; the defaults are DeepLab2's recipe: 1025x2049, 60k steps."""
    config.data.path = path
    config.data.num_classes = 19
    config.data.num_workers = 8
    config.evaluate.batch_size = 4


def use_coco(config: ConfigDict, path: str = 'data/coco', side_px: int = 641) -> None:
    """Sets the data of COCO and DeepLab2's recipe for it: 200k steps of 64 images.

    Args:
      config: changed in place.
      path: the prepared data.
      side_px: side in pixels of the square that images are resized to fit.
    """
    config.data.path = path
    config.data.num_classes = 134
    config.data.canvas_height_px = 640
    config.data.canvas_width_px = 640
    config.data.num_workers = 8

    use_crop(config, side_px, side_px)
    config.augment.resize_min_px = side_px
    config.augment.resize_max_px = side_px
    config.augment.min_scale = 0.5
    config.augment.max_scale = 1.5
    config.augment.num_scales = 10

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 2000
    config.train.batch_size = 64
    config.train.num_steps = 200_000

    config.postprocess.nms_kernel_px = 41
    config.postprocess.stuff_area_limit_px = 4096


def use_semantic_recipe(config: ConfigDict) -> None:
    """Sets the recipe of the semantic DeepLabs.

    SGD, and plain cross entropy over all pixels of every class, crowds included.
    """
    config.augment.num_scales = 0
    config.targets.is_crowd_ignored = False
    config.targets.small_instance_weight = 1.0
    config.loss.top_k_fraction = 1.0
    config.optimizer.kind = 'sgd'
    config.optimizer.learning_rate = 7e-3
    config.optimizer.weight_decay = 4e-5
    config.train.batch_size = 16


def use_deeplab_v1_v2_recipe(config: ConfigDict, path: str = 'data/voc') -> None:
    """Sets what the recipes of DeepLab v1 and v2 for Pascal VOC share, beside the semantic one.

    The logits train at ten times the rate, their biases at twenty times.
    """
    config.data.path = path
    config.data.train_split = 'trainaug'
    config.data.num_classes = 21
    config.data.num_workers = 8
    use_crop(config, 321, 321)
    config.augment.min_scale = 0.5
    config.augment.max_scale = 1.5
    config.augment.num_scales = 5
    config.optimizer.weight_decay = 5e-4
