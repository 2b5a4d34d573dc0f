"""The interface that training, evaluation, prediction and plans know of a way to label pixels."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.losses.class_weights import PixelCounts
from pdl_jax.losses.distillation import Lesson
from pdl_jax.postprocess.scores import segment_table
from pdl_jax.preprocess.normalize import Normalization
from pdl_jax.presets import Preset
from pdl_jax.systems.averaging import Averaging
from pdl_jax.systems.batches import LabelMaps, Samples, image_size
from pdl_jax.systems.computation import Computation
from pdl_jax.systems.drawing.colors import color_panoptic, color_semantic
from pdl_jax.systems.drawing.fields import draw_ponder
from pdl_jax.systems.option_fields import refuse_unknown, set_fields
from pdl_jax.systems.parameter_groups import ParameterGroup
from pdl_jax.systems.pixel_grid import PixelGrid
from pdl_jax.typing import Array, LabelFormat, PyTree

if TYPE_CHECKING:
    from pdl_jax.systems.distillation import Distillation

Variables = dict[str, PyTree]
Outputs = dict[str, Array]
Sections = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class SystemOptions(abc.ABC):
    """The options of a system, as a configuration sets them; no data are needed.

    Attributes:
      crop_size: (height, width) in pixels of the training crop.
      dtype: dtype of activations; 'auto' is bfloat16 on TPU and GPU and float32 on CPU.
      num_channels: channels of images (`config.data.num_channels`).
    """

    # A name of `SYSTEMS`.
    name: ClassVar[str]
    # Outputs that the ground truth can take the place of.
    oracles: ClassVar[tuple[str, ...]] = ()
    has_instances: ClassVar[bool] = True
    # See `System.labels_images`.
    labels_images: ClassVar[bool] = False
    max_instances_field: ClassVar[str] = 'targets.max_instances'

    crop_size: tuple[int, int]
    dtype: str = 'auto'
    num_channels: int = 3

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f'config.model.dtype (={self.dtype!r}) must be one of {list(DTYPES)}')

    @classmethod
    def field_types(cls) -> Mapping[str, type]:
        """Returns the type of each field of `config.model` that the system reads."""
        hints = get_type_hints(cls)
        names = (field.name for field in dataclasses.fields(cls))
        return {name: hints[name] for name in names if name not in ('crop_size', 'num_channels')}

    @classmethod
    def from_sections(cls, preset: Preset, sections: Sections, crop_size: tuple[int, int]) -> Self:
        """Makes the options from a preset and a configuration.

        The default takes fields of `config.model` by name, over those of the preset.

        Args:
          preset: gives what the configuration leaves open.
          sections: 'model', 'targets', 'loss', 'postprocess'; None leaves a field to the preset.
          crop_size: (height, width) in pixels of the training crop.

        Raises:
          ValueError: names the field, its value and what it may be.
        """
        fields = {**preset.model, **set_fields(sections['model'])}
        refuse_unknown('model', fields, set(cls.field_types()))
        return cls(crop_size=crop_size, **fields)

    def to_sections(self) -> dict[str, dict[str, Any]]:
        """Lists the effective value of every field, by section; the inverse of `from_sections`."""
        fields = dataclasses.asdict(self)
        del fields['crop_size'], fields['num_channels']
        return {'model': fields}

    @property
    def normalization(self) -> Normalization:
        """The normalisation of pixels, see `preprocess.normalize`."""
        return 'unit'

    @property
    def max_instances(self) -> int | None:
        """Most instances of one crop that get targets, None for no bound."""
        return None

    @property
    def trains_backbone_norm(self) -> bool:
        """Whether training goes on from the BatchNorm statistics of an initial backbone."""
        return False

    def describe_weights(self) -> dict[str, Any]:
        """Lists, as JSON values, what weights depend on besides their shapes."""
        return {}

    @property
    def inference_values(self) -> dict[str, Any]:
        """The options that may change after training, such as thresholds, with their values."""
        return {}

    @property
    def tuning_choices(self) -> dict[str, tuple[Any, ...]]:
        """The values of these options that a search tries, see `evaluation.tuning`."""
        return {}

    def with_inference(self, values: Mapping[str, Any]) -> Self:
        """Changes options that may change after training; floats may be traced arrays, f32[].

        Raises:
          ValueError: the system has no such option, or it cannot have this value.
        """
        for name in values:
            raise ValueError(f'{name} is no option of a {self.name} network')
        return self

    def for_data(
        self, class_names: Sequence[str] | None, count_pixels: Callable[[], PixelCounts]
    ) -> Self:
        """Fills in what a configuration leaves to the data, such as the weights of classes.

        Args:
          class_names: names by semantic class; None fills in anything of the right type, for a plan
            without data.
          count_pixels: counts the pixels of the classes, see `losses.class_weights.PixelCounts`.

        Raises:
          ValueError: a field does not fit the classes.
        """
        del class_names, count_pixels
        return self

    @abc.abstractmethod
    def make_system(self, label_format: LabelFormat) -> 'System':
        """Makes the system for the classes of a dataset."""

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations; asks for the devices if it is 'auto'."""
        if self.dtype != 'auto':
            return jnp.dtype(self.dtype)
        return jnp.dtype('float32' if jax.default_backend() == 'cpu' else 'bfloat16')


DTYPES = ('auto', 'float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class System(abc.ABC):
    """A way to label pixels; pure functions of variables and arrays, to be jitted by the callers.

    Attributes:
      label_format: how classes and instances are coded.
      backbone_regex: matches paths of the parameters that a classifier gives.
      max_segments_field: the field that bounds the objects of a label map.
    """

    label_format: LabelFormat
    backbone_regex: ClassVar[str] = '^backbone/'
    max_segments_field: ClassVar[str] = 'postprocess.max_centers'

    @abc.abstractmethod
    def init(self, rng: Array) -> Variables:
        """Draws initial variables: 'params' and whatever other collections the network has."""

    @abc.abstractmethod
    def loss(
        self,
        variables: Variables,
        samples: Samples,
        *,
        rng: Array,
        distillation: 'Distillation | None' = None,
    ) -> tuple[Array, tuple[dict[str, Array], Variables]]:
        """Computes the loss of a batch, blended with a teacher's `lessons` if there is one.

        Returns:
          The loss f32[], its weighted terms f32[] by name, and the collections that a train step
          updates, such as 'batch_stats'.
        """

    @abc.abstractmethod
    def outputs(self, variables: Variables, images: Array) -> Outputs:
        """Runs the network on f32[B, H, W, C], normalised; its outputs at its own stride."""

    def context_features(self, variables: Variables, images: Array) -> PyTree:
        """Computes the features that the network averages over a whole image.

        With their means f32[1, 1, 1, C] as the collection 'context' of the variables, `outputs`
        labels a part of an image in the context of all of it.

        Args:
          variables: the system's.
          images: f32[B, H, W, C], normalised.

        Returns:
          f32[B, h, w, D] each, at the stride of `grid`; none from a system that averages nothing.
        """
        del variables, images
        return {}

    @property
    def is_adaptive(self) -> bool:
        """Whether the network spends more on some images, or parts of them, than on others."""
        return False

    def measure_computation(self, variables: Variables, images: Array) -> Computation:
        """Measures what an adaptive network spends on f32[B, H, W, C], normalised."""
        raise NotImplementedError(f'{type(self).__name__} is not adaptive')

    def image_losses(self, outputs: Outputs, panoptic: Array) -> dict[str, Array]:
        """Computes the terms of the loss of each image, which add up to it.

        Args:
          outputs: upsampled to the size of `panoptic`, or partially.
          panoptic: i32[B, H, W], the label map as the network saw the image.

        Returns:
          f32[B] by name; none from a system that does not tell.
        """
        del outputs, panoptic
        return {}

    def lessons(self, outputs: Outputs, *, size: tuple[int, int]) -> dict[str, Lesson]:
        """Lists by name what students learn; none from a system that neither teaches nor learns.

        Args:
          outputs: as `outputs` returns them, or as `loss` has them.
          size: (height, width) of the images in pixels.
        """
        del outputs, size
        return {}

    @abc.abstractmethod
    def label_maps(self, outputs: Outputs, *, size: tuple[int, int]) -> LabelMaps:
        """Labels pixels from outputs, upsampled or not, at `size` (height, width) in pixels."""

    def label_padded_maps(
        self, outputs: Outputs, *, size: tuple[int, int], image_size: Array
    ) -> LabelMaps:
        """Labels pixels of padded images; by default as if the padding belonged to them.

        Args:
          outputs, size: see `label_maps`.
          image_size: i32[B, 2], (height, width) in pixels of the images in their top left corner.
        """
        del image_size
        return self.label_maps(outputs, size=size)

    def label_original_maps(
        self,
        outputs: Outputs,
        *,
        size: tuple[int, int],
        image_size: Array,
        original_size: Array,
        canvas: tuple[int, int],
    ) -> LabelMaps | None:
        """Labels pixels of padded images at the images' own size; None if labels are resized.

        Args:
          outputs, size, image_size: see `label_padded_maps`.
          original_size: i32[B, 2], the `image_size` before the resize.
          canvas: (height, width) in pixels of the maps; void outside of the images.
        """
        return None

    @property
    def network(self) -> nn.Module | None:
        """The flax module, if there is one, for summaries."""
        return None

    @property
    def grid(self) -> PixelGrid:
        """The input sizes that the network takes."""
        return PixelGrid()

    @property
    def has_instances(self) -> bool:
        """Whether labels tell instances apart; else the system is a semantic one."""
        return True

    @property
    def labels_images(self) -> bool:
        """Whether an image has one class, which all its pixels share; metrics count images then."""
        return False

    def image_scores(self, outputs: Outputs) -> Array:
        """Computes class probabilities f32[B, C] of whole images, see `labels_images`."""
        raise NotImplementedError(f'{type(self).__name__} labels pixels')

    @property
    def max_segments(self) -> int:
        """Upper bound of the segments in a label map that it predicts."""
        return self.label_format.num_classes

    @property
    def max_pixels(self) -> int | None:
        """Upper bound of the pixels of an input, None for no bound."""
        return None

    @property
    def averaging(self) -> Averaging | None:
        """The average of outputs over scales and the mirror image; None if there is none."""
        return None

    @property
    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Parameters that train at another rate, with another decay, or not at all."""
        return ()

    def at_scale(self, factor: float) -> Self:
        """Returns the system for images resized by a factor, of the same variables."""
        del factor
        return self

    def upsample(
        self, outputs: Outputs, size: tuple[int, int], *, is_partial: bool = False
    ) -> Outputs:
        """Brings outputs to `size` (height, width) in pixels.

        Args:
          outputs: as `outputs` returns them.
          size: the size of the images.
          is_partial: leave at the network's stride what `label_maps` upsamples on the way.
        """
        del size, is_partial
        return outputs

    def replace_by_truth(self, outputs: Outputs, panoptic: Array, oracle: Sequence[str]) -> Outputs:
        """Puts the ground truth in the place of outputs at full size, see `SystemOptions.oracles`.

        Args:
          outputs: at the size of `panoptic`.
          panoptic: i32[B, H, W], the label map as the network saw the image.
          oracle: names of outputs.
        """
        raise ValueError(f'{type(self).__name__} has no outputs to replace by the truth: {oracle}')

    def filter_segments(self, maps: LabelMaps) -> LabelMaps:
        """Makes segments void that are too uncertain or too small, at the size of the images."""
        return maps

    def describe_segments(self, maps: LabelMaps) -> dict[str, Array]:
        """Lists the segments of label maps, see `postprocess.scores.segment_table`; [B, S, ...]."""
        describe = functools.partial(
            segment_table, label_format=self.label_format, max_segments=self.max_segments
        )
        return jax.vmap(describe)(maps.panoptic, maps.class_probability, maps.score)

    def picture_maps(self, variables: Variables, samples: Samples) -> dict[str, Array]:
        """Computes what `draw_pictures` draws; to be jitted. [B, H, W, ...] each."""
        outputs = self.outputs(variables, samples.image)
        maps = self.label_maps(outputs, size=image_size(samples.image))
        return {'panoptic': maps.panoptic, 'target_panoptic': samples.panoptic}

    def draw_pictures(
        self, maps: Mapping[str, np.ndarray], image: np.ndarray, colors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Draws what a person wants to see of one sample while the system trains; on the host.

        Args:
          maps: `picture_maps` of the sample, without the batch axis.
          image: u8[H, W, 3].
          colors: u8[N, 3], by semantic value.

        Returns:
          u8[H, W, 3] pictures by name.
        """
        pictures = {'image': image}
        if 'ponder' in maps:
            pictures['ponder'] = draw_ponder(maps['ponder'], image)
        for name, key in (('target', 'target_panoptic'), ('prediction', 'panoptic')):
            if self.has_instances:
                pictures[name] = color_panoptic(maps[key], self.label_format, colors)
            else:
                semantic = maps[key] // self.label_format.label_divisor
                pictures[name] = color_semantic(semantic, colors)
        return pictures
