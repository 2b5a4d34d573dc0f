"""Rules for the arrays of one layer, per framework.

Each function takes the regex of the layer's name in the file and the layer's path in our network.
"""

import numpy as np

from pdl_jax.convert.rules import Rule, Target, Transform, ignore, keep


def torch_conv(pattern: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a convolution: weight [O, I / groups, h, w], and bias if it has one.

    One over sequences, weight [O, I, w], is one over maps of a single row here.
    """
    return (
        Rule(rf'{pattern}\.weight', (Target('params', f'{path}/kernel', from_oihw),)),
        Rule(rf'{pattern}\.bias', (Target('params', f'{path}/bias'),)),
    )


def torch_dense(pattern: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a dense layer, a 1x1 convolution here: weight [O, I] and bias."""
    return (
        Rule(rf'{pattern}\.weight', (Target('params', f'{path}/kernel', _from_oi),)),
        Rule(rf'{pattern}\.bias', (Target('params', f'{path}/bias'),)),
    )


def torch_norm(pattern: str, path: str, transform: Transform = keep) -> tuple[Rule, ...]:
    """Makes the rules of BatchNorm, or of LayerNorm, which has no statistics.

    Args:
      pattern, path: see above.
      transform: from the arrays of the file, one value a channel, to the variables.
    """
    return (
        Rule(rf'{pattern}\.weight', (Target('params', f'{path}/scale', transform),)),
        Rule(rf'{pattern}\.bias', (Target('params', f'{path}/bias', transform),)),
        Rule(rf'{pattern}\.running_mean', (Target('batch_stats', f'{path}/mean', transform),)),
        Rule(rf'{pattern}\.running_var', (Target('batch_stats', f'{path}/var', transform),)),
        ignore(
            rf'{pattern}\.num_batches_tracked', 'a counter of training steps, which nothing reads'
        ),
    )


def torch_conv_norm(conv: str, norm: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a `blocks.ConvNorm`."""
    return (*torch_conv(conv, f'{path}/conv'), *torch_norm(norm, f'{path}/norm'))


def tensorflow_conv(pattern: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a convolution: kernel [h, w, I, O], and bias if it has one.

    One over sequences, kernel [w, I, O], and a dense layer, [I, O], are ones over maps of a single
    row and 1x1 convolutions here.
    """
    return (
        Rule(rf'{pattern}/kernel', (Target('params', f'{path}/kernel', to_hwio),)),
        Rule(rf'{pattern}/bias', (Target('params', f'{path}/bias'),)),
    )


def tensorflow_depthwise(pattern: str, path: str) -> tuple[Rule, ...]:
    """Makes the rules of a depthwise one: depthwise_kernel [h, w, C, 1], and bias if it has one."""
    return (
        Rule(rf'{pattern}/depthwise_kernel', (Target('params', f'{path}/kernel', from_depthwise),)),
        Rule(rf'{pattern}/bias', (Target('params', f'{path}/bias'),)),
    )


def tensorflow_norm(pattern: str, path: str, transform: Transform = keep) -> tuple[Rule, ...]:
    """Makes the rules of BatchNorm, or of LayerNorm, see `torch_norm`."""
    return (
        Rule(rf'{pattern}/gamma', (Target('params', f'{path}/scale', transform),)),
        Rule(rf'{pattern}/beta', (Target('params', f'{path}/bias', transform),)),
        Rule(rf'{pattern}/moving_mean', (Target('batch_stats', f'{path}/mean', transform),)),
        Rule(rf'{pattern}/moving_variance', (Target('batch_stats', f'{path}/var', transform),)),
    )


def folded_conv_norm(pattern: str, path: str, norm_epsilon: float) -> tuple[Rule, ...]:
    """Makes the rules of a `blocks.ConvNorm` whose BatchNorm was folded into kernel and bias.

    Our BatchNorm then only adds the bias: its mean is 0 and its variance 1 - epsilon.

    Args:
      pattern: regex of the layer's name; the layer has a kernel in our layout and a bias.
      path: path of the `ConvNorm`.
      norm_epsilon: epsilon of our BatchNorm.
    """
    norm = f'{path}/norm'
    return (
        Rule(rf'{pattern}\.kernel', (Target('params', f'{path}/conv/kernel'),)),
        Rule(
            rf'{pattern}\.bias',
            (
                Target('params', f'{norm}/bias'),
                Target('params', f'{norm}/scale', np.ones_like),
                Target('batch_stats', f'{norm}/mean', np.zeros_like),
                Target('batch_stats', f'{norm}/var', lambda x: np.full_like(x, 1 - norm_epsilon)),
            ),
        ),
    )


def to_scalar(x: np.ndarray) -> np.ndarray:
    """Returns the only channel of a norm that has no channels here."""
    return x.reshape(x.shape[1:])


def to_hwio(x: np.ndarray) -> np.ndarray:
    """Returns the kernel [h, w, I, O] of [w, I, O], or of [I, O]."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def from_oihw(x: np.ndarray) -> np.ndarray:
    """Returns the kernel [h, w, I, O] of [O, I, h, w], or of [O, I, w]."""
    x = x[:, :, None] if x.ndim == 3 else x
    return x.transpose(2, 3, 1, 0)


def _from_oi(x: np.ndarray) -> np.ndarray:
    return x.T[None, None]


def from_depthwise(x: np.ndarray) -> np.ndarray:
    """Returns the kernel [h, w, 1, C] of [h, w, C, 1]."""
    return x.transpose(0, 1, 3, 2)
