"""One train step of kMaX-DeepLab beside that of the PyTorch program, with its weights by rule."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pdl_jax.losses.mask_transformer import MaskLossOptions, prediction_losses
from tests import kmax_goldens
from tests.convert.compiling import run_fast
from tests.losses.test_mask_transformer_loss import TERMS, read_targets

# Of these parameters the rule makes a fifth: with batch statistics a network of larger ones is
# chaotic.
_SMALLER = ('.conv3.norm.weight', '_conv3_bn.norm.weight', '_query_ffn_conv2_bn.norm.weight')


@pytest.fixture(scope='module')
def golden(shared_dir):
    return np.load(shared_dir / 'golden' / 'kmax' / 'train_r50_coco_65x65.npz')


@pytest.fixture(scope='module')
def step(golden, shared_dir):
    """The conversion, outputs, losses, gradients and updated statistics."""
    arrays = kmax_goldens.draw_weights(shared_dir, 'r50_coco', int(golden['weight_salt']))
    arrays = {
        key: x * np.float32(0.2 if key.endswith(_SMALLER) else 1) for key, x in arrays.items()
    }
    conversion, variables = kmax_goldens.convert(arrays, 'r50_coco')
    network = conversion.network
    options = dataclasses.replace(network.options, dropout_rate=0.0, transformer_keep_prob=1.0)
    model = dataclasses.replace(network, options=options).make_module(conversion.num_classes)
    image = kmax_goldens.draw_image(shared_dir, 2, (65, 65), int(golden['image_salt']))
    targets = read_targets(golden, rows=4)
    loss_options = MaskLossOptions(semantic_samples_px=0)
    pixels = targets.segment.shape[1] * targets.segment.shape[2]
    noise = np.random.default_rng(0).uniform(size=(2, pixels)).astype(np.float32)

    def compute(params):
        outputs, updates = model.apply(
            {**variables, 'params': params},
            image,
            train=True,
            with_auxiliary=True,
            mutable=['batch_stats'],
        )
        predictions = [outputs, *outputs['auxiliary']]
        losses = prediction_losses(
            predictions,
            outputs['semantic'],
            targets,
            num_classes=conversion.num_classes,
            options=loss_options,
            noise=[{'instance': noise}] * len(predictions),
        )
        total = sum(
            getattr(loss_options, f'{term}_weight') * value
            for terms in losses
            for term, value in terms.items()
        )
        return total, (outputs, losses, updates)

    (_, found), gradient = run_fast(jax.value_and_grad(compute, has_aux=True), variables['params'])
    outputs, losses, updates = jax.tree.map(np.asarray, found)
    return conversion, outputs, losses, jax.tree.map(np.asarray, gradient), updates


@pytest.mark.slow
def test_losses(golden, step):
    _, outputs, losses, _, _ = step
    expected = json.loads(str(golden['values']))['losses']
    for number, terms in enumerate(losses):
        for term, value in terms.items():
            name = f'loss_{TERMS[term]}' + (f'_{number - 1}' if number else '')
            np.testing.assert_allclose(value, expected[name], rtol=3e-4, err_msg=name)
    np.testing.assert_allclose(outputs['class_logits'], golden['class_logits'], rtol=0, atol=2e-3)
    for i, prediction in enumerate(outputs['auxiliary']):
        assignment = prediction['mask_logits'].argmax(-1).reshape(2, -1)
        np.testing.assert_array_equal(assignment, golden[f'assignment{i}'])


@pytest.mark.slow
def test_gradients(golden, step, shared_dir):
    conversion, _, _, gradient, _ = step
    rule = kmax_goldens.load_rule(shared_dir)
    shapes = kmax_goldens.read_shapes(shared_dir, 'r50_coco')
    expected = json.loads(str(golden['gradients']))
    ours = {f'params/{path}': g for path, g in flatten_dict(gradient, sep='/').items()}
    norm_errors, probe_errors = [], []
    for path, origin in conversion.account.loaded.items():
        if not path.startswith('params/'):
            continue
        wanted = expected[origin.key]
        found = ours[path].astype(np.float64)
        norm = np.sqrt((found**2).sum())
        if wanted['norm'] < 1e-6:
            # Zero in exact arithmetic.
            assert norm < 1e-5, (origin.key, norm)
            continue
        probe = origin.transform(rule.draw(f'{origin.key}/probe', shapes[origin.key]))
        norm_errors.append(abs(norm - wanted['norm']) / wanted['norm'])
        probe_errors.append(abs((found * probe).sum() - wanted['probe']) / wanted['norm'])
    assert len(norm_errors) == 674
    assert np.quantile(norm_errors, 0.95) < 2e-3 and np.quantile(norm_errors, 0.99) < 2e-2
    assert np.quantile(probe_errors, 0.95) < 2e-2


@pytest.mark.slow
def test_running_statistics(golden, step):
    conversion, _, _, _, updates = step
    expected = json.loads(str(golden['running']))
    ours = flatten_dict(updates, sep='/')
    checked = 0
    for path, origin in conversion.account.loaded.items():
        # The variance of PyTorch is divided by n - 1.
        if path.endswith('/mean'):
            mean, norm = expected[origin.key]
            found = ours[path].astype(np.float64)
            np.testing.assert_allclose(found.mean(), mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(np.sqrt((found**2).sum()), norm, rtol=1e-4, atol=1e-5)
            checked += 1
    assert checked > 200
