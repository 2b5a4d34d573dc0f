"""Layers that every network is made of: convolution, normalisation, and both with an activation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from pdl_jax.ops.convolution import conv
from pdl_jax.ops.depthwise_convolution import depthwise_conv
from pdl_jax.ops.lax_convolution import lax_conv
from pdl_jax.ops.padding import Dilation, same_padding, symmetric_padding
from pdl_jax.typing import Array

Activation = Callable[[Array], Array]
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    'relu': nn.relu,
    'gelu': functools.partial(nn.gelu, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """Options shared by all layers of one network.

    Attributes:
      dtype: type of activations; parameters, BatchNorm statistics and head outputs stay float32.
      norm_momentum: share of the old running statistics that one train step keeps.
      norm_epsilon: added to the variance.
      padding: 'symmetric' (DeepLab2, PyTorch) or 'same' (TensorFlow's SAME, which TF-slim weights
        expect). They differ in strided convolutions of even-sized maps only.
      is_norm_frozen: BatchNorm uses its stored statistics in training too.
      activation: the network's, of every layer that does not say otherwise.
    """

    dtype: Any = jnp.float32
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    padding: str = 'symmetric'
    is_norm_frozen: bool = False
    activation: Activation = nn.relu

    def __post_init__(self) -> None:
        if self.padding not in ('symmetric', 'same'):
            raise ValueError(f"padding must be 'symmetric' or 'same', not {self.padding!r}")


class UnitFeatures(NamedTuple):
    """The features that a residual unit has at its end.

    Attributes:
      activated: float[B, h, w, C], the input of the next unit.
      total: float[B, h, w, C], the sum of branch and shortcut before its activation.
      branch: float[B, h, w, C], the residual branch alone.
    """

    activated: Array
    total: Array
    branch: Array


def check_choices(module: nn.Module, choices: Mapping[str, Sequence[Any]]) -> None:
    """Checks attributes that have only a few valid values.

    Raises:
      ValueError: an attribute has another value.
    """
    for attribute, allowed in choices.items():
        value = getattr(module, attribute)
        if value not in allowed:
            raise ValueError(
                f'{type(module).__name__} {attribute} must be one of {tuple(allowed)}, '
                f'not {value!r}'
            )


def drop_path(module: nn.Module, branch: Array, keep_prob: float, *, train: bool) -> Array:
    """Drops a residual branch for some of the images in training (stochastic depth).

    Args:
      module: the module being called, for its rng 'dropout'.
      branch: float[B, ...].
      keep_prob: share of images that keep the branch; kept branches are divided by it.
      train: whether to drop any.

    Returns:
      float[B, ...].
    """
    if not train or keep_prob == 1:
        return branch
    shape = (branch.shape[0], *(1 for _ in branch.shape[1:]))
    kept = jax.random.bernoulli(module.make_rng('dropout'), keep_prob, shape)
    return jnp.where(kept, branch / keep_prob, 0)


def find_keep_prob(last: float, stride: int, schedule: str = 'linear') -> float:
    """Returns the share of images that keep the residual branch of a unit in training.

    Args:
      last: the share in the last stage.
      stride: stride of the unit's input at output stride 32; units at less than 4 drop none.
      schedule: 'constant', or 'linear' from 1 at stride 2 down to `last` at stride 32.

    Source: DeepLab2.
    """
    if stride < 4:
        return 1.0
    progress = 1 if schedule == 'constant' else (math.log2(stride) - 1) / 4
    return 1 - (1 - last) * progress


class Conv(nn.Module):
    """A convolution; depthwise if `is_depthwise`.

    Every convolution of every network is one of these, so that `models.summary` can count them.
    Kernels are initialised he-normal, depthwise ones glorot-uniform as in Keras.

    Attributes:
      groups: groups of channels that are convolved apart from each other.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: Dilation = 1
    is_depthwise: bool = False
    has_bias: bool = False
    kernel_init: Callable | None = None
    options: LayerOptions = LayerOptions()
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array, *, dilation: Dilation | None = None) -> Array:
        """Convolves float[B, H, W, C]; `dilation` overrides the module's, for a second pass."""
        dilation = self.dilation if dilation is None else dilation
        dtype = self.options.dtype
        channels = 1 if self.is_depthwise else x.shape[-1] // self.groups
        # The fans of Keras' [k, k, C, 1] kernel and of our [k, k, 1, C] have the same sum, so the
        # glorot bound is the same.
        init = (
            nn.initializers.glorot_uniform() if self.is_depthwise else nn.initializers.he_normal()
        )
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param('kernel', self.kernel_init or init, shape, jnp.float32).astype(dtype)
        if self.options.padding == 'same':
            padding = same_padding(x.shape[1:3], self.kernel_size, self.stride, dilation)
        else:
            padding = symmetric_padding(self.kernel_size, dilation)
        convolve = depthwise_conv if self.is_depthwise else conv
        if self.groups > 1:
            convolve = functools.partial(lax_conv, groups=self.groups)
        x = convolve(x.astype(dtype), kernel, self.stride, dilation, padding)
        if self.has_bias:
            x = x + self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(
                dtype
            )
        return x


def batch_norm(
    options: LayerOptions,
    *,
    train: bool,
    scale_init: Callable = nn.initializers.ones,
    axis: int | tuple[int, ...] = -1,
    name: str = 'norm',
) -> nn.BatchNorm:
    """Makes a BatchNorm as a child of the module being called.

    Under jit on an array sharded over its batch the statistics are those of the global batch:
    synchronised BatchNorm without an axis name.
    """
    return nn.BatchNorm(
        use_running_average=not train or options.is_norm_frozen,
        # Flax takes several axes or none too, against its annotation.
        axis=cast(int, axis),
        momentum=options.norm_momentum,
        epsilon=options.norm_epsilon,
        dtype=options.dtype,
        scale_init=scale_init,
        name=name,
    )


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, activation.

    Attributes:
      activation: 'network' is that of `options`; None is none.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: Dilation = 1
    activation: Activation | Literal['network'] | None = 'network'
    is_depthwise: bool = False
    has_bias: bool = False
    scale_init: Callable = nn.initializers.ones
    kernel_init: Callable | None = None
    options: LayerOptions = LayerOptions()
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.is_depthwise,
            self.has_bias,
            kernel_init=self.kernel_init,
            options=self.options,
            groups=self.groups,
            name='conv',
        )(x)
        x = batch_norm(self.options, train=train, scale_init=self.scale_init)(x)
        activation = self.options.activation if self.activation == 'network' else self.activation
        return x if activation is None else activation(x)


def project_branch(
    x: Array, features: int, options: LayerOptions, *, train: bool, name: str
) -> Array:
    """Ends a residual branch by a 1x1 convolution, as a child of the module being called.

    The scale of its BatchNorm begins at 0, so that the block begins as the identity.
    """
    return ConvNorm(
        features,
        activation=None,
        scale_init=nn.initializers.zeros,
        options=options,
        name=name,
    )(x, train=train)


class SeparableConv(nn.Module):
    """Depthwise then 1x1 convolution, the latter with BatchNorm and activation.

    Attributes:
      between: the layers between the two: BatchNorm and 'activation', BatchNorm alone ('norm'), or
        'none'.
      has_bias: whether both have a bias too.
    """

    features: int
    kernel_size: int = 5
    dilation: Dilation = 1
    between: str = 'activation'
    has_bias: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shape = (x.shape[-1], self.kernel_size, 1, self.dilation)
        shared = {
            'is_depthwise': True,
            'has_bias': self.has_bias,
            'options': self.options,
            'name': 'depthwise',
        }
        if self.between == 'none':
            x = Conv(*shape, **shared)(x)
        else:
            activation = None if self.between == 'norm' else 'network'
            x = ConvNorm(*shape, activation, **shared)(x, train=train)
        return ConvNorm(
            self.features, has_bias=self.has_bias, options=self.options, name='pointwise'
        )(x, train=train)


class TwoConvs(nn.Module):
    """Two 3x3 convolutions in a row, plain or separable."""

    widths: tuple[int, int]
    is_separable: bool
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        layer = SeparableConv if self.is_separable else ConvNorm
        for i, width in enumerate(self.widths, 1):
            x = layer(width, 3, options=self.options, name=f'conv{i}')(x, train=train)
        return x


# Single convolutions by name: whether it is separable, and the side of its kernel.
_CONVS = {
    f'{kind}{size}x{size}': (kind == 'separable', size)
    for kind in ('conv', 'separable')
    for size in (3, 5, 7)
}
FUSIONS = (*_CONVS, 'linear_separable5x5', 'two_conv3x3', 'two_separable3x3')


def make_fusion(
    kind: str,
    features: int,
    hidden_features: int,
    options: LayerOptions,
    *,
    name: str,
    has_bias: bool = False,
) -> nn.Module:
    """Makes the convolutions of one decoder stage or head.

    Args:
      kind: one of `FUSIONS`, such as 'separable5x5' (DeepLab2, bowenc0221), 'linear_separable5x5'
        (the same without an activation between its two convolutions, Model Garden), 'two_conv3x3'
        (detectron2), 'two_separable3x3' (DeepLabv3+), 'conv3x3' (DeepLabv3 of DeepLab2 and
        torchvision) or 'separable7x7' (DeeperLab).
      features: channels of the result.
      hidden_features: channels between the two convolutions, for the kinds that have two.
      options: options of all layers.
      name: name of the module.
      has_bias: whether separable 5x5 convolutions have a bias before BatchNorm.

    Raises:
      ValueError: `kind` is unknown.
    """
    is_linear, single = kind.startswith('linear_'), kind.removeprefix('linear_')
    if single in _CONVS and kind in FUSIONS:
        is_separable, size = _CONVS[single]
        if not is_separable:
            return ConvNorm(features, size, options=options, name=name)
        between = 'norm' if is_linear else 'activation'
        return SeparableConv(features, size, 1, between, has_bias, options, name=name)
    if kind not in FUSIONS:
        raise ValueError(f'fusion {kind!r} is unknown; choose one of {FUSIONS}')
    return TwoConvs((hidden_features, features), kind == 'two_separable3x3', options, name=name)
