"""Colour operations against the bytes of DeepLab2's program, and the draws of the policy."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from pdl_jax.preprocess.augment import AugmentOptions
from pdl_jax.preprocess.color_policy import (
    OPERATIONS,
    POLICIES,
    Operation,
    apply_operation,
    apply_policy,
    find_argument,
)
from pdl_jax.preprocess.photometric import distort_image

GOLDENS = ('constructed', 'image30_64x48')
# Largest share of values that may differ by 1. The original sums three f32 products, and truncates.
MAX_SHARE = {'color': 0.001}
CANVAS = (50, 70)
apply = jax.jit(apply_operation, static_argnums=0)


def _place(image, seed=0):
    """Puts an image on a canvas whose padding would change every statistic."""
    canvas = np.random.default_rng(seed).integers(0, 256, (*CANVAS, 3)).astype(np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return jnp.asarray(canvas), jnp.array(image.shape[:2])


@pytest.mark.parametrize('name', OPERATIONS)
def test_operation_has_the_bytes_of_the_original(name, find_golden):
    found = 0
    for case in GOLDENS:
        with np.load(find_golden('autoaugment', case)) as golden:
            image, size = _place(golden['image'])
            for key in golden.files:
                operation, _, level = key.partition('_')
                if operation.lower() != name:
                    continue
                found += 1
                actual = apply(name, image, size, find_argument(name, float(level)))
                actual = np.asarray(actual)[: size[0], : size[1]]
                difference = np.abs(actual.astype(int) - golden[key])
                assert difference.max() <= (name in MAX_SHARE), key
                assert np.mean(difference > 0) <= MAX_SHARE.get(name, 0), key
    assert found in (2, 16)


def test_policies_are_the_originals(find_golden):
    path = find_golden('autoaugment', 'policies').with_suffix('.json')
    originals = json.loads(path.read_text())
    for suffix, magnitude in (('', 1), ('_magnitude_scale_0.2', 0.2)):
        pairs = [
            [[o.name.capitalize(), o.probability, o.level * magnitude] for o in pair]
            for pair in POLICIES['simple_classification']
        ]
        assert np.array(pairs)[..., 0].tolist() == [
            [o[0] for o in pair] for pair in originals[f'simple_classification_policy{suffix}']
        ]
        for pair, original in zip(
            pairs, originals[f'simple_classification_policy{suffix}'], strict=True
        ):
            for operation, expected in zip(pair, original, strict=True):
                assert operation[1:] == pytest.approx(expected[1:])


def _draw_image():
    """Of few colours, so that every operation changes it."""
    rng = np.random.default_rng(1)
    return (rng.integers(0, 20, (40, 60, 3)) * [10, 11, 12] + 10).astype(np.uint8)


def test_equalize_is_pillows():
    image, size = _place(_draw_image())
    actual = np.asarray(apply('equalize', image, size, 0.0))[:40, :60]
    np.testing.assert_array_equal(actual, ImageOps.equalize(Image.fromarray(_draw_image())))


def test_images_without_a_range_stay():
    flat, size = _place(np.full((3, 5, 3), 77, np.uint8))
    for name in ('equalize', 'autocontrast'):
        np.testing.assert_array_equal(apply(name, flat, size, 0.0)[:3, :5], 77)


def _list_outcomes(magnitude):
    """The probability of each image that the policy may make, by its bytes."""
    outcomes = {}
    for pair in POLICIES['simple_classification']:
        for draws in np.ndindex(2, 2):
            (image, size), probability = _place(_draw_image()), 1 / 5
            for operation, is_drawn in zip(pair, draws, strict=True):
                probability *= operation.probability if is_drawn else 1 - operation.probability
                if is_drawn:
                    argument = find_argument(operation.name, magnitude * operation.level)
                    image = apply(operation.name, image, size, argument)
            key = np.asarray(image)[:40, :60].tobytes()
            outcomes[key] = outcomes.get(key, 0) + probability
    return {key: probability for key, probability in outcomes.items() if probability}


@pytest.mark.parametrize('magnitude', [1.0, 0.2])
def test_policy_draws_pairs_and_operations_by_their_probabilities(magnitude):
    num = 600
    policy = POLICIES['simple_classification']
    image, size = _place(_draw_image())
    draw = jax.jit(
        jax.vmap(lambda key: apply_policy(key, image, size, policy, magnitude=magnitude))
    )
    results = np.asarray(draw(jax.random.split(jax.random.key(0), num)))[:, :40, :60]
    counts = collections.Counter(result.tobytes() for result in results)
    outcomes = _list_outcomes(magnitude)
    assert len(outcomes) == 13 and set(counts) <= set(outcomes)
    for key, probability in outcomes.items():
        slack = 4 * np.sqrt(num * probability * (1 - probability))
        assert abs(counts[key] - num * probability) <= slack


def test_policy_is_part_of_the_distortion_and_needs_colours():
    image, size = _place(_draw_image())
    options = AugmentOptions((8, 8), color_policy='simple_classification')
    draw = jax.jit(jax.vmap(lambda key: distort_image(key, image, size, options)))
    images = draw(jax.random.split(jax.random.key(3), 16))
    assert images.dtype == jnp.uint8
    assert 2 < len({int(x.astype(jnp.int32).sum()) for x in images}) < 16
    with pytest.raises(ValueError, match='config.augment.color_policy needs RGB images'):
        distort_image(jax.random.key(0), image[..., :1], size, options)


def test_operations_of_no_probability_are_left_out_of_the_program():
    policy = ((Operation('equalize', 0.0, 9), Operation('invert', 1.0, 0)),)
    image, size = _place(_draw_image())
    program = jax.make_jaxpr(lambda key: apply_policy(key, image, size, policy))(jax.random.key(0))
    assert 'cumsum' not in str(program)
    np.testing.assert_array_equal(apply_policy(jax.random.key(0), image, size, policy), 255 - image)


def _place_far(image):
    """Puts an image of the goldens of Model Garden on a canvas that holds the largest."""
    canvas = np.random.default_rng(0).integers(0, 256, (260, 259, 3)).astype(np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return jnp.asarray(canvas), jnp.array(image.shape[:2])


@pytest.mark.parametrize('name', OPERATIONS)
def test_operation_has_the_bytes_of_model_garden(name, find_golden):
    """Those of 2022, as DeepLab2's: the contrast of today's program is another."""
    with np.load(find_golden('model_garden', 'autoaugment')) as golden:
        keys = [k for k in golden.files if k.lower().startswith(f'op/{name}/')]
        assert keys
        for key in keys:
            *_, level, picture = key.split('/')
            image, size = _place_far(golden[f'image/{picture}'])
            actual = apply(name, image, size, find_argument(name, float(level)))
            actual = np.asarray(actual)[: size[0], : size[1]]
            np.testing.assert_array_equal(actual, golden[key], err_msg=key)


@pytest.mark.parametrize('row', range(5))
def test_both_operations_of_a_pair_in_order(row, find_golden):
    pair = POLICIES['simple_classification'][row]
    with np.load(find_golden('model_garden', 'autoaugment')) as golden:
        image, size = _place_far(golden['image/small'])
        expected = golden[f'both_ops_of_subpolicy/{row}']
    for operation in pair:
        argument = find_argument(operation.name, 0.2 * operation.level)
        image = apply(operation.name, image, size, argument)
    actual = np.asarray(image)[: size[0], : size[1]]
    np.testing.assert_array_equal(actual, expected)
