"""Sections of a configuration other than the system's, as frozen records that check themselves."""

import dataclasses

from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.typing import check_not_negative, check_positive, check_regex, check_share

OPTIMIZERS = ('adam', 'adamw', 'sgd')
SCHEDULES = ('poly', 'cosine', 'step')
EXTRA_METRICS = ('ap', 'pc')
SCENE_KINDS = ('panoptic', 'classes')
# Early stopping can watch the score that ranks checkpoints, or a value of an evaluation.
_OF_INSTANCES = ('pq', 'pq_things', 'pq_stuff')
_OF_PIXELS = ('miou', 'pixel_accuracy')
_OF_IMAGES = ('top1', 'top5')
STOPPING_METRICS = ('score', *_OF_INSTANCES, *_OF_PIXELS, *_OF_IMAGES, 'loss')
# Services that a run can also be logged to.
TRACKERS = ('wandb', 'mlflow')


@dataclasses.dataclass(frozen=True)
class ScenesOptions:
    """Generated scenes to make where no data are; see configs/common.py."""

    kind: str = 'panoptic'
    num_train: int = 0
    num_eval: int = 0
    height_px: int = 192
    width_px: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SCENE_KINDS:
            raise ValueError(
                f'config.data.scenes.kind (={self.kind!r}) must be one of {list(SCENE_KINDS)}'
            )
        if self.kind == 'classes' and self.height_px != self.width_px:
            raise ValueError(
                f'config.data.scenes.height_px (={self.height_px}) must be width_px '
                f"(={self.width_px}) where kind is 'classes', whose images are squares"
            )


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data and their reading; see configs/common.py for the fields."""

    path: str
    train_split: str = 'train'
    eval_split: str = 'val'
    num_classes: int = 0
    num_channels: int = 3
    canvas_height_px: int = 0
    canvas_width_px: int = 0
    num_workers: int = 0
    skip_unreadable: bool = False
    scenes: ScenesOptions = ScenesOptions()

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                'config.data.path is empty: give the directory that `pdl_jax prepare` wrote, for '
                'example --config.data.path=data/coco'
            )
        check_positive('data', self, 'num_channels')

    def canvas_size(self, max_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) in pixels that training images are padded to.

        Args:
          max_size: (height, width) of the largest image.
        """
        return self.canvas_height_px or max_size[0], self.canvas_width_px or max_size[1]


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The optimiser and its schedule; see configs/common.py for the fields."""

    kind: str = 'adam'
    learning_rate: float = 5e-4
    backbone_learning_rate_factor: float = 1.0
    warmup_steps: int = 0
    warmup_start_factor: float = 0.0
    schedule: str = 'poly'
    poly_power: float = 0.9
    decay_at_steps: tuple[int, ...] = ()
    decay_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_epsilon: float = 1e-7
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            raise ValueError(
                f'config.optimizer.kind (={self.kind!r}) must be one of {list(OPTIMIZERS)}'
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f'config.optimizer.schedule (={self.schedule!r}) must be one of {list(SCHEDULES)}'
            )
        steps = self.decay_at_steps
        if list(steps) != sorted(set(steps)) or (self.schedule == 'step') != bool(steps):
            raise ValueError(
                f'config.optimizer.decay_at_steps (={steps!r}) must be ascending steps, and empty '
                f"unless config.optimizer.schedule (={self.schedule!r}) is 'step'"
            )
        check_positive('optimizer', self, 'learning_rate', 'decay_factor')
        check_share('optimizer', self, 'ema_decay', 'momentum', 'warmup_start_factor')
        check_not_negative('optimizer', self, 'backbone_learning_rate_factor', 'weight_decay')


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The schedule of a run; see configs/common.py for the fields.

    Attributes:
      init_checkpoint: what to start from (`config.model.init_checkpoint`).
    """

    batch_size: int = 32
    accumulation_steps: int = 1
    remat: tuple[str, ...] = ()
    num_steps: int = 60_000
    log_every_steps: int = 100
    picture_every_steps: int = 1000
    checkpoint_every_steps: int = 1000
    evaluate_every_steps: int = 10_000
    keep_checkpoints: int = 5
    early_stopping_evals: int = 0
    early_stopping_metric: str = 'score'
    max_minutes: float = 0.0
    writers: tuple[str, ...] = ()
    init_checkpoint: str = ''

    def __post_init__(self) -> None:
        check_positive(
            'train',
            self,
            'accumulation_steps',
            'batch_size',
            'checkpoint_every_steps',
            'keep_checkpoints',
            'log_every_steps',
            'num_steps',
        )
        for regex in self.remat:
            check_regex('config.train.remat', self.remat, regex)
        if self.early_stopping_metric not in STOPPING_METRICS:
            raise ValueError(
                f'config.train.early_stopping_metric (={self.early_stopping_metric!r}) must be one '
                f'of {list(STOPPING_METRICS)}'
            )
        if self.early_stopping_evals < 0 or (
            self.early_stopping_evals and not self.evaluate_every_steps
        ):
            raise ValueError(
                f'config.train.early_stopping_evals (={self.early_stopping_evals}) must not be '
                f'negative, and needs config.train.evaluate_every_steps'
            )
        check_not_negative('train', self, 'max_minutes')
        if not set(self.writers) <= set(TRACKERS):
            raise ValueError(f'config.train.writers (={self.writers!r}) may hold {TRACKERS} only')


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Inference and scoring of whole images; see configs/common.py for the fields."""

    batch_size: int = 8
    scales: tuple[float, ...] = (1.0,)
    is_flipped: bool = False
    oracle: tuple[str, ...] = ()
    extra_metrics: tuple[str, ...] = ()
    with_loss: bool = False
    crf: CrfOptions = CrfOptions()

    def __post_init__(self) -> None:
        check_positive('evaluate', self, 'batch_size')
        if not self.scales or not all(scale > 0 for scale in self.scales):
            raise ValueError(f'config.evaluate.scales (={self.scales!r}) must be positive numbers')


def find_requirement(
    metric: str, *, has_instances: bool, labels_images: bool, with_loss: bool
) -> str:
    """Names what an evaluation lacks to have a metric of `STOPPING_METRICS`; '' for nothing."""
    if metric == 'loss' and not with_loss:
        return 'config.evaluate.with_loss=True'
    if metric in _OF_INSTANCES and not has_instances:
        return 'instances'
    if metric in _OF_PIXELS and labels_images:
        return 'a network that labels pixels'
    if metric in _OF_IMAGES and not labels_images:
        return 'a classifier of whole images'
    return ''
