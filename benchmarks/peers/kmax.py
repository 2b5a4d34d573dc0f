"""kMaX-DeepLab in PyTorch, eager and channels last: inference, and a train step with its losses.

The losses are those of bytedance/kmax-deeplab on all pixels, without the noise that samples them.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from benchmarks.inputs import IGNORE_LABEL, LABEL_DIVISOR
from benchmarks.peers.model import load_channels_last
from benchmarks.peers.running import find_device, make_program
from benchmarks.program import Program, Setup
from benchmarks.torch_networks.kmax import KMaXDeepLab

_WEIGHTS = {'class': 3.0, 'mask_id': 0.3, 'mask_dice': 3.0, 'instance': 1.0, 'semantic': 1.0}
_EPSILON = 1e-5
_OPTIONS = {'lr': 5e-4, 'weight_decay': 0.05}
# Last norms of residual branches, weak enough that rounding does not grow from layer to layer.
_RESIDUAL = ('conv3.norm.weight', '_conv3_bn.norm.weight', '_ffn_conv2_bn.norm.weight')


def prepare(setup: Setup) -> Program:
    """Makes inference to masks and classes, or a train step where the case has label maps."""
    network = _make_network(setup)
    image = load_channels_last(setup, 'image', find_device(setup))
    if 'label_maps' not in setup.arguments['inputs']:
        network.eval()

        def infer():
            with torch.no_grad():
                outputs = network(image)
            return {key: outputs[key] for key in ('mask_logits', 'class_logits')}

        def get_outputs(outputs):
            masks = outputs['mask_logits'].permute(0, 2, 3, 1)
            return {'mask_logits': masks.numpy(), 'class_logits': outputs['class_logits'].numpy()}

        return make_program(
            infer,
            arguments=[image, network.state_dict()],
            device=find_device(setup),
            get_outputs=get_outputs,
        )
    network.train()
    targets = [
        _list_segments(setup.load(name)[::4, ::4], network.num_classes)
        for name in ('label', 'prediction')
    ]
    optimizer = torch.optim.AdamW(network.parameters(), **_OPTIONS)
    losses = []

    def step():
        optimizer.zero_grad()
        loss = find_loss(network(image), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    return make_program(
        step,
        arguments=[image, network.state_dict()],
        device=find_device(setup),
        num_items=setup.arguments['batch'],
        get_outputs=lambda _: {'loss': losses[0].numpy()},
    )


def _make_network(setup: Setup) -> nn.Module:
    network = KMaXDeepLab(setup.arguments['num_classes'])
    path = setup.files['weights']
    if not os.path.exists(path):
        rng = np.random.default_rng(0)
        state = {key: _draw(rng, key, x.shape) for key, x in network.state_dict().items()}
        np.savez(path, **state)
    with np.load(path) as file:
        state = {key: torch.from_numpy(value) for key, value in file.items()}
    network.load_state_dict(state)
    network.num_classes = setup.arguments['num_classes']
    return network.to(memory_format=torch.channels_last)


def _draw(rng, key, shape):
    """Draws weights and statistics that keep activations near 1."""
    if key.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    if key.endswith('running_var'):
        scale = 100 if '_kmeans_query_batch_norm' in key else 1
        return (scale * np.exp(rng.normal(0, 0.2, shape))).astype(np.float32)
    if len(shape) > 1:
        is_embedding = '_embeddings.' in key or '_cluster_centers.' in key
        deviation = 1 if is_embedding else np.prod(shape[1:]) ** -0.5
        return rng.normal(0, deviation, shape).astype(np.float32)
    values = rng.normal(0, 0.1, shape)
    if key.endswith('weight'):
        values = (1 + values) * (0.2 if key.endswith(_RESIDUAL) else 1)
    return values.astype(np.float32)


def _list_segments(panoptic, num_classes):
    """Returns the segment of each pixel, -1 for void, and the classes of the segments."""
    valid = panoptic // LABEL_DIVISOR != IGNORE_LABEL
    labels = np.unique(panoptic[valid])
    segment = np.where(valid, np.searchsorted(labels, panoptic), -1)
    semantic = np.where(valid, panoptic // LABEL_DIVISOR, -1)
    return tuple(torch.from_numpy(x).long() for x in (segment, labels // LABEL_DIVISOR, semantic))


def find_loss(outputs, targets):
    """Adds up the losses of the final prediction and of the layers; one matching serves all."""
    predictions = [outputs, *outputs['auxiliary']]
    total = 0.0
    for i, (segment, classes, semantic) in enumerate(targets):
        match = _match(outputs['mask_logits'][i], outputs['class_logits'][i], segment, classes)
        for prediction in predictions:
            total = total + _prediction_loss({key: prediction[key][i] for key in _MAPS}, match)
        loss = F.cross_entropy(outputs['semantic'][i][None], semantic[None], ignore_index=-1)
        total = total + _WEIGHTS['semantic'] * loss
    return total / len(targets)


_MAPS = ('mask_logits', 'class_logits', 'pixel_feature')


@torch.no_grad()
def _match(masks, classes, segment, labels):
    num_queries, void = masks.shape[0], classes.shape[-1] - 1
    one_hot = F.one_hot(segment.flatten() + 1, len(labels) + 1)[:, 1:].float()
    share = masks.flatten(1).softmax(0)
    inside = share * (segment.flatten() >= 0)
    overlap = inside @ one_hot
    area = one_hot.sum(0)
    dice = overlap / ((inside.sum(1)[:, None] + area) / 2 + _EPSILON)
    probability = classes.softmax(-1)[:, labels]
    query, row = linear_sum_assignment(-(dice * probability).numpy())
    owner = one_hot.new_full((len(one_hot),), -1).long()
    found = {'label': torch.full((num_queries,), void), 'area': area.new_zeros(num_queries)}
    found['mask_weight'] = area.new_zeros(num_queries)
    for n, m in zip(query.tolist(), row.tolist(), strict=True):
        owner[one_hot[:, m] > 0] = n
        found['label'][n], found['area'][n] = labels[m], area[m]
        found['mask_weight'][n] = probability[n, m].clamp(min=_EPSILON)
    weight = (share * (owner < 0)).sum(1) / (share.sum(1) + _EPSILON)
    weight[query] = dice[query, row]
    return {**found, 'owner': owner, 'class_weight': weight.clamp(min=_EPSILON)}


def _mean_of_nonzero(losses):
    return losses.sum() / (losses != 0).sum().clamp(min=1)


def _prediction_loss(prediction, match):
    masks, classes = prediction['mask_logits'].flatten(1), prediction['class_logits']
    void, owner = classes.shape[-1] - 1, match['owner']
    is_valid = owner >= 0
    entropy = F.cross_entropy(classes, match['label'], reduction='none')
    factor = torch.where(match['label'] == void, 0.25, 0.75)
    class_loss = _mean_of_nonzero(match['class_weight'] * factor * entropy)
    mask_id = F.cross_entropy(masks.T, owner, ignore_index=-1, reduction='none')
    share = masks.softmax(0) * is_valid
    truth = F.one_hot(owner + 1, len(masks) + 1)[:, 1:].float()
    overlap = (share * truth.T).sum(1)
    dice = 1 - (2 * overlap + 1) / (share.sum(1) + match['area'] + 1)
    feature = prediction['pixel_feature'].flatten(1).T
    similar = F.normalize(truth @ truth.T, p=1, dim=-1)
    contrast = -(similar * (feature @ feature.T / 0.3).log_softmax(-1)).sum(-1)
    terms = {
        'class': class_loss,
        'mask_id': _mean_of_nonzero(mask_id),
        'mask_dice': (match['mask_weight'] * dice).sum() * 0.75 / len(masks),
        'instance': _mean_of_nonzero(contrast),
    }
    return sum(_WEIGHTS[key] * value for key, value in terms.items())
