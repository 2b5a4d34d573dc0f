"""The dense CRF against pydensecrf's numbers, exact sums and its own properties."""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pdl_jax.postprocess.crf_options import CrfOptions
from pdl_jax.postprocess.dense_crf import (
    SETTINGS,
    DenseCrf,
    mean_field,
    refine_images,
    refine_probabilities,
)

NAMES = ('w1', 'sa', 'sb', 'w2', 'sg')


@functools.cache
def _compiled(normalization, kind):
    """One program for all numbers; a shape compiles it once."""

    def run(unary, image, numbers, num_iterations):
        crf = DenseCrf(*numbers, num_iterations, normalization, kind)
        return mean_field(unary, image, crf)

    return jax.jit(run)


def run(unary, image, numbers, num_iterations, normalization='symmetric', kind='lattice'):
    numbers = jnp.array(numbers, jnp.float32)
    return np.asarray(_compiled(normalization, kind)(unary, image, numbers, num_iterations))


def list_cases(golden):
    """Lists (prefix, numbers, normalization, iterations, marginals) of a golden file."""
    settings = json.loads(str(golden['settings']))
    for key in golden.files:
        prefix, _, rest = key.partition('_')
        if prefix in ('pydensecrf', 'exact'):
            setting, normalization, iterations = rest.rsplit('_', 2)
            numbers = [settings[setting][name] for name in NAMES]
            marginals = golden[key].transpose(1, 2, 0)
            yield key, numbers, normalization, int(iterations), marginals


def compare_golden(path, prefix):
    golden = np.load(path)
    unary, image = golden['unary'].transpose(1, 2, 0), golden['image']
    kind = {'pydensecrf': 'lattice', 'exact': 'exact'}[prefix]
    count = 0
    for key, numbers, normalization, iterations, wanted in list_cases(golden):
        if not key.startswith(prefix):
            continue
        found = run(unary, image, numbers, iterations, normalization, kind)
        if prefix == 'exact':
            np.testing.assert_allclose(found, wanted, atol=1e-3, err_msg=key)
        elif iterations == 1:
            np.testing.assert_allclose(found, wanted, atol=2e-3, err_msg=key)
        same = (found.argmax(-1) == wanted.argmax(-1)).mean()
        assert same >= 0.999, (key, same)
        count += 1
    return count


@pytest.mark.parametrize('prefix', ['pydensecrf', 'exact'])
def test_marginals_are_those_of_the_stored_pictures(shared_dir, prefix):
    folder = shared_dir / 'golden' / 'crf'
    assert compare_golden(folder / 'image9_80x60.npz', prefix) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'prefix', 'count'),
    [
        ('image36_61x75', 'pydensecrf', 6),
        ('image36_61x75', 'exact', 6),
        ('image25_64x48_norms', 'pydensecrf', 16),
        ('image25_64x48_norms', 'exact', 12),
        ('image42_240x180_lattice_only', 'pydensecrf', 2),
    ],
)
def test_marginals_of_more_pictures_and_normalizations(shared_dir, name, prefix, count):
    assert compare_golden(shared_dir / 'golden' / 'crf' / f'{name}.npz', prefix) == count


def make_fixture():
    """A picture of 12x16 pixels and noisy unaries of three classes, by formula."""
    y, x = np.mgrid[:12, :16].astype(np.float64)
    image = np.stack(
        [
            np.where(x < 8, 40, 200) + 3 * np.sin(y),
            np.where(y < 6, 60, 150) + 2 * np.cos(x),
            90 + 5 * np.sin(0.7 * x + 0.3 * y),
        ],
        axis=-1,
    )
    classes = np.arange(3)
    labels = ((x >= 8).astype(int) + (y >= 6)) % 3
    x, y = x[..., None], y[..., None]
    logits = (
        1.2 * (labels[..., None] == classes)
        + 0.9 * np.sin(1.3 * x + 2.1 * y + classes)
        + 0.5 * np.cos(3.7 * x - 1.1 * y + 2 * classes)
    )
    unary = -np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
    return unary, image.astype(np.float32)


def test_exact_marginals_of_a_picture_by_formula():
    unary, image = make_fixture()
    found = run(unary, image, (4, 8, 20, 3, 1), 5, kind='exact')
    np.testing.assert_allclose(found[0, 0], (0.999091, 0.000468, 0.000441), atol=2e-6)
    np.testing.assert_allclose(found[5, 8], (0.004245, 0.995310, 0.000445), atol=2e-6)
    np.testing.assert_allclose(found[11, 15], (0.000293, 0.000361, 0.999346), atol=2e-6)
    assert np.bincount(found.argmax(-1).ravel()).tolist() == [48, 96, 48]
    change = np.abs(found - np.exp(-unary)).sum()
    assert change == pytest.approx(160.3039, abs=2e-3)
    lattice = run(unary, image, (4, 8, 20, 3, 1), 5)
    assert 1e-4 < np.abs(lattice - found).max() < 3e-3


def test_without_weights_the_softmax_of_the_unaries_is_left():
    unary, image = make_fixture()
    found = run(unary, image, (0, 8, 20, 0, 1), 5)
    np.testing.assert_allclose(found, np.exp(-unary), atol=1e-6)


def test_marginals_follow_a_permutation_of_the_classes():
    unary, image = make_fixture()
    order = [2, 0, 1]
    numbers = (4, 8, 20, 3, 1)
    found = run(unary[..., order], image, numbers, 5)
    np.testing.assert_allclose(found, run(unary, image, numbers, 5)[..., order], atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize('kind', ['lattice', 'exact'])
def test_padding_takes_no_part(kind):
    unary, image = make_fixture()
    probabilities = np.exp(-unary)
    crf = DenseCrf(4, 8, 20, 3, 1, 5, filter=kind)
    refine = jax.jit(functools.partial(refine_probabilities, crf=crf))
    alone = refine(probabilities, image)
    canvas = np.zeros((2, 16, 20, 3), np.float32), np.zeros((2, 16, 20, 3), np.float32)
    canvas[0][...] = 0.7
    canvas[0][:, :12, :16], canvas[1][:, :12, :16] = probabilities, image
    sizes = np.array([[12, 16], [7, 5]], np.int32)
    padded = jax.jit(functools.partial(refine_images, crf=crf))(*canvas, sizes)
    np.testing.assert_allclose(padded[0, :12, :16], alone, atol=1e-5)
    part = refine(probabilities[:7, :5], image[:7, :5])
    np.testing.assert_allclose(padded[1, :7, :5], part, atol=1e-5)
    assert np.isfinite(np.asarray(padded)).all()


def test_options_name_a_setting_and_change_it():
    assert CrfOptions().resolve() is None
    assert CrfOptions('voc_v2').resolve() == SETTINGS['voc_v2']
    changed = CrfOptions('voc_v1', num_iterations=3, filter='exact').resolve()
    assert changed == dataclasses.replace(SETTINGS['voc_v1'], num_iterations=3, filter='exact')


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'setting': 'voc2'}, "setting.*'voc2'.*unknown.*voc_v2"),
        ({'num_iterations': 3}, 'has num_iterations but no setting'),
        ({'setting': 'voc_v2', 'bilateral_px': 0.0}, r'bilateral_px \(=0.0\) must be positive'),
        ({'setting': 'voc_v2', 'spatial_weight': -1.0}, 'spatial_weight .*must not be negative'),
        ({'setting': 'voc_v2', 'filter': 'fast'}, "filter .*'fast'.*must be one of"),
    ],
)
def test_wrong_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        CrfOptions(**fields)


def load_crf_unary(shared_dir):
    """The function of the reference data that makes unaries from panoptic labels."""
    path = shared_dir / 'golden' / 'crf' / 'crf_unary.py'
    spec = importlib.util.spec_from_file_location('crf_unary', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.D = f'{shared_dir}/data/coco_panoptic_200/train/'
    return module


def read_picture(path, size):
    """Reads a picture of (width, height); the reference resized tall ones by columns first."""
    picture = Image.open(path).convert('RGB')
    width, height = picture.size
    if height > 1.45 * width:
        picture = picture.resize((width, size[1]), Image.Resampling.BILINEAR)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


@pytest.mark.slow
def test_accuracies_of_forty_pictures(shared_dir):
    folder = shared_dir / 'data' / 'coco_panoptic_200' / 'train'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    path = shared_dir / 'golden' / 'crf' / 'forty_images_accuracy.json'
    stored = json.loads(path.read_text())
    wanted = np.array(stored['accuracy'])
    make_unary = load_crf_unary(shared_dir).unary
    settings = ((4, 67, 3, 3, 1), (10, 80, 13, 3, 3), (5, 10, 20, 2, 2), (4, 30, 8, 3, 2))
    # A hundred runs are worth the time to optimise the program.
    refine = jax.jit(
        lambda probabilities, image, numbers: refine_probabilities(
            probabilities, image, DenseCrf(*numbers, 10, filter='lattice')
        ),
        compiler_options={'xla_backend_optimization_level': 3},
    )
    found = np.full(wanted.shape, np.nan)
    for i, name in enumerate(stored['images']):
        probabilities, labels = make_unary(name, (200, 150), stored['classes'], 1000 + i)
        probabilities = probabilities.transpose(1, 2, 0)
        image = read_picture(folder / 'images' / f'{name}.jpg', (200, 150))
        found[i, 0] = (probabilities.argmax(-1) == labels).mean()
        # The first setting on all pictures, the others on some.
        for j, numbers in enumerate(settings[: 4 if i < 4 else 1], 1):
            marginals = refine(probabilities, image, jnp.array(numbers, jnp.float32))
            found[i, j] = (np.argmax(marginals, -1) == labels).mean()
    is_run = ~np.isnan(found)
    np.testing.assert_allclose(found[is_run], wanted[is_run], atol=2e-4)
    unary, refined = found[:, :2].mean(axis=0)
    assert unary == pytest.approx(0.93395, abs=1e-5)
    assert refined == pytest.approx(0.93829, abs=5e-4)
