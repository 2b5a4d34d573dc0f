"""MobileNetV2 weights from .npz files: Keras Applications with BatchNorm, or TF-slim graphs with BatchNorm folded in.

Such a graph may go on to a whole DeepLabv3.
"""

import re
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from pdl_jax.models.options import ModelOptions
from pdl_jax.typing import PyTree

_KERAS_BLOCK = re.compile(r'(?:expanded_conv|block_(\d+))_(expand|depthwise|project)(_BN)?')
_KERAS_FIELDS = {
    'kernel': ('params', 'conv', 'kernel'),
    'depthwise_kernel': ('params', 'conv', 'kernel'),
    'gamma': ('params', 'norm', 'scale'),
    'beta': ('params', 'norm', 'bias'),
    'moving_mean': ('batch_stats', 'norm', 'mean'),
    'moving_variance': ('batch_stats', 'norm', 'var'),
}
_MAX_BYTES = 2**30


def load_mobilenet_v2(path: str, variables: PyTree, *, norm_epsilon: float, is_norm_frozen: bool) -> PyTree:
    """Replaces the variables of a MobileNetV2 backbone by those of a file.

    Two layouts are read, told apart by their keys: Keras' names (`block_3_expand_BN/gamma`), and layers numbered in the order
    of the graph with BatchNorm folded into kernel and bias (`07.dw.kernel`). Classifiers and other layers behind the
    backbone are left out.

    Args:
      path: an .npz file of float arrays, local or gs://.
      variables: {'params', 'batch_stats'} of the backbone, for names and shapes.
      norm_epsilon: of the backbone's BatchNorm; a folded layer becomes one with mean 0 and variance 1 - epsilon.
      is_norm_frozen: whether the backbone trains with its stored statistics. Folded weights need it: their statistics
        are gone, and normalising by those of a batch would undo the folded scale.

    Returns:
      {'params', 'batch_stats'} of the same structure, as NumPy float32 arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not of a known layout, lacks a layer, or has another width.
    """
    arrays = _read_npz(path)
    if 'Conv1/kernel' in arrays:
        found = _from_keras(arrays)
    elif '00.conv.kernel' in arrays:
        if not is_norm_frozen:
            raise ValueError(
                f'{path} holds MobileNetV2 with BatchNorm folded into its kernels, so there are no statistics to go on '
                f'training with: set config.model.is_backbone_norm_frozen=True'
            )
        layers = dict(zip(_find_places(), _find_layers(arrays), strict=False))
        found = _from_folded(arrays, layers, norm_epsilon)
    else:
        raise ValueError(
            f"{path} is no known MobileNetV2 layout: neither Keras' key 'Conv1/kernel' nor the folded layout's "
            f"'00.conv.kernel' is among {sorted(arrays)[:3]}"
        )
    return _fill(variables, found, path, ())


def load_deeplab_v3(path: str, variables: PyTree, model: ModelOptions) -> PyTree:
    """Replaces the variables of DeepLabv3 on MobileNetV2 without atrous branches by those of a folded graph.

    Args:
      path: an .npz file of the second layout of `load_mobilenet_v2`, with the decoder behind the backbone.
      variables: {'params', 'batch_stats'} of `PanopticDeepLab`, for names and shapes.
      model: the network, preset 'tensorflow/deeplab_v3_mobilenet_v2_os16'.

    Returns:
      {'params', 'batch_stats'} of the same structure, as NumPy float32 arrays; for inference, since there are no statistics.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not of this layout, lacks a layer, or has other channels.
    """
    arrays = _read_npz(path)
    layers = _find_layers(arrays)
    places = [('backbone', *place) for place in _find_places()]
    decoder = ('semantic_decoder', 'aspp')
    places += [(*decoder, 'branch_0'), (*decoder, 'pool'), (*decoder, 'project'), ('semantic_head', 'predict')]
    if len(layers) != len(places):
        raise ValueError(f'{path} has {len(layers)} layers, a DeepLabv3 on MobileNetV2 without atrous branches {len(places)}')
    *normed, head = places
    backbone_epsilon = model.norm_epsilon if model.backbone_norm_epsilon is None else model.backbone_norm_epsilon
    found = {}
    for place, layer in zip(normed, layers, strict=False):
        epsilon = backbone_epsilon if place[0] == 'backbone' else model.norm_epsilon
        found |= _from_folded(arrays, {place: layer}, epsilon)
    # TensorFlow concatenates the pooled features first.
    key = ('params', *decoder, 'project', 'conv', 'kernel')
    pooled, near = np.split(found[key], 2, axis=2)
    found[key] = np.concatenate([near, pooled], axis=2)
    for name in ('kernel', 'bias'):
        found[('params', *head, name)] = arrays[f'{layers[-1]}.{name}']
    return _fill(variables, found, path, ())


def _read_npz(path):
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f'config.model.backbone_weights (={path!r}): no such file')
    if file.stat().length > _MAX_BYTES:
        raise ValueError(f'{path} has more than {_MAX_BYTES} bytes: no MobileNetV2 is that large')
    try:
        with file.open('rb') as stream, np.load(stream, allow_pickle=False) as archive:
            # Unpacked sizes too: a small archive may unpack to more than the memory.
            if sum(member.file_size for member in archive.zip.infolist()) > _MAX_BYTES:
                raise ValueError(f'its arrays have more than {_MAX_BYTES} bytes')
            return {key: archive[key] for key in archive.files}
    except (AttributeError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # AttributeError: a lone .npy array has no archive.
        raise ValueError(f'{path} cannot be read as an .npz of plain arrays: {error}') from error


def _from_keras(arrays):
    found = {}
    for key, value in arrays.items():
        layer, field = key.rsplit('/', 1)
        if layer in ('Conv1', 'bn_Conv1'):
            place = ('stem',)
        elif match := _KERAS_BLOCK.fullmatch(layer):
            place = (f'block_{match[1] or 0}', match[2])
        else:
            continue
        collection, part, name = _KERAS_FIELDS[field]
        if field == 'depthwise_kernel':
            value = value.transpose(0, 1, 3, 2)
        found[(collection, *place, part, name)] = value
    return found


def _find_layers(arrays):
    """The layers of a folded graph in its order."""
    return sorted({key.rsplit('.', 1)[0] for key in arrays if re.fullmatch(r'\d+\.\w+\.\w+', key)})


def _find_places():
    """The layers of the backbone in the graph's order: the stem, then (expand,) depthwise and project of every block."""
    places = [('stem',)]
    for block in range(17):
        parts = ('depthwise', 'project') if block == 0 else ('expand', 'depthwise', 'project')
        places += [(f'block_{block}', part) for part in parts]
    return places


def _from_folded(arrays, layers, norm_epsilon):
    """Variables of places from layers with kernel and bias; a missing one is reported by name when the tree is filled."""
    found: dict[tuple[str, ...], Any] = {}
    for place, layer in layers.items():
        kernel, bias = arrays[f'{layer}.kernel'], arrays[f'{layer}.bias']
        found[('params', *place, 'conv', 'kernel')] = kernel
        found[('params', *place, 'norm', 'bias')] = bias
        found[('params', *place, 'norm', 'scale')] = np.ones_like(bias)
        found[('batch_stats', *place, 'norm', 'mean')] = np.zeros_like(bias)
        found[('batch_stats', *place, 'norm', 'var')] = np.full_like(bias, 1 - norm_epsilon)
    return found


def _fill(tree, found, path, prefix):
    if isinstance(tree, dict):
        return {key: _fill(value, found, path, (*prefix, key)) for key, value in tree.items()}
    name = '/'.join(prefix)
    if prefix not in found:
        raise ValueError(f'{path} has no weights for the layer {name}')
    value = np.asarray(found[prefix], np.float32)
    if value.shape != tree.shape:
        raise ValueError(
            f'{path}: {name} has shape {value.shape}, the model {tuple(tree.shape)}; '
            f'config.model.width_multiplier must be that of the weights'
        )
    return value
