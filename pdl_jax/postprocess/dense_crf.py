"""Refinement of class probabilities by a fully connected CRF, in mean-field approximation.

The energy of a labelling x is

    sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] (w1 k1(i, j) + w2 k2(i, j))

with a bilateral kernel k1 = exp(-|p_i - p_j|^2 / 2a^2 - |I_i - I_j|^2 / 2b^2) over the positions p
and the colours I of pixels, and a spatial kernel k2 = exp(-|p_i - p_j|^2 / 2g^2).

Source: Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials, 2011; pydensecrf.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.ops import gaussian_filter, permutohedral
from pdl_jax.ops.platforms import by_platform, is_portable
from pdl_jax.typing import Array, PyTree

NORMALIZATIONS = ('symmetric', 'before', 'after', 'none')
FILTERS = ('auto', 'lattice', 'exact')
# Lowest probability of a class, as pydensecrf clips it, and what it adds to the sums of kernels.
_LOWEST_PROBABILITY = 1e-5
_TINY = 1e-20


@dataclasses.dataclass(frozen=True)
class DenseCrf:
    """The parameters of a CRF; numbers may be traced arrays, so that one program serves many.

    Attributes:
      bilateral_weight: w1.
      bilateral_px: a, the deviation of positions in the bilateral kernel in pixels.
      bilateral_color: b, the deviation of colours in [0, 255].
      spatial_weight: w2.
      spatial_px: g, the deviation of the spatial kernel in pixels.
      num_iterations: passes of the mean field.
      normalization: division of a kernel K by its row sums n: 'symmetric' is n^-1/2 K n^-1/2,
        'before' K n^-1, 'after' n^-1 K, 'none' K.
      filter: 'lattice' (`ops.permutohedral`, as in pydensecrf), 'exact' (`ops.gaussian_filter`,
        whose time is quadratic in the pixels) or 'auto': exact on TPUs, where gathers are slow, and
        the lattice elsewhere.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    bilateral_weight: float = 4.0
    bilateral_px: float = 67.0
    bilateral_color: float = 3.0
    spatial_weight: float = 3.0
    spatial_px: float = 1.0
    num_iterations: int = 10
    normalization: str = 'symmetric'
    filter: str = 'auto'

    def __post_init__(self) -> None:
        section = 'evaluate.crf'
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (
                value >= 0 if field.name.endswith('_weight') else value > 0
            ):
                kind = 'not be negative' if field.name.endswith('_weight') else 'be positive'
                raise ValueError(f'config.{section}.{field.name} (={value!r}) must {kind}')
        for field, choices in (('normalization', NORMALIZATIONS), ('filter', FILTERS)):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(
                    f'config.{section}.{field} (={value!r}) must be one of {list(choices)}'
                )


# Parameters by name: of kazuto1011's DeepLab v2 for VOC, of the release of DeepLab v1 and of
# pydensecrf's example.
SETTINGS: Mapping[str, DenseCrf] = {
    'voc_v2': DenseCrf(4.0, 67.0, 3.0, 3.0, 1.0),
    'voc_v1': DenseCrf(4.0, 121.0, 5.0, 3.0, 3.0),
    'pydensecrf': DenseCrf(10.0, 80.0, 13.0, 3.0, 3.0, num_iterations=5),
}


class _Kernel(NamedTuple):
    """A linear filter of f32[N, C] that works in a scratch, and its weight in the messages."""

    apply: Callable[[Array, PyTree], tuple[Array, PyTree]]
    make_scratch: Callable[[int], PyTree]
    weight: float


def refine_probabilities(
    probabilities: Array, image: Array, crf: DenseCrf, valid: Array | None = None
) -> Array:
    """Refines the class probabilities of an image.

    Args:
      probabilities: f32[H, W, C]; clipped from below, as pydensecrf does.
      image: [H, W, D], colours in [0, 255].
      crf: the parameters.
      valid: bool[H, W], false for padding, which takes no part; the first pixel must be valid.
        None if there is none.

    Returns:
      f32[H, W, C], probabilities that add up to 1.
    """
    unary = -jnp.log(jnp.maximum(probabilities.astype(jnp.float32), _LOWEST_PROBABILITY))
    return mean_field(unary, image, crf, valid)


def refine_images(probabilities: Array, images: Array, image_size: Array, crf: DenseCrf) -> Array:
    """Refines the class probabilities of a batch of padded images, one after the other.

    Args:
      probabilities: f32[B, H, W, C].
      images: [B, H, W, D], colours in [0, 255].
      image_size: i32[B, 2], (height, width) in pixels of the images in their top left corner; at
        least one pixel.
      crf: the parameters.

    Returns:
      f32[B, H, W, C].

    Raises:
      ValueError: the program is to be a portable one.
    """
    if is_portable():
        raise ValueError(
            "a CRF has no portable form: set config.evaluate.crf.setting='', or export StableHLO"
        )

    def refine(one: tuple[Array, Array, Array]) -> Array:
        probabilities, image, size = one
        is_row, is_column = (jnp.arange(n) < size[i] for i, n in enumerate(image.shape[:2]))
        valid = is_row[:, None] & is_column
        return refine_probabilities(probabilities, image, crf, valid)

    return lax.map(refine, (probabilities, images, image_size))


def mean_field(unary: Array, image: Array, crf: DenseCrf, valid: Array | None = None) -> Array:
    """Approximates the marginals of the CRF.

    Args:
      unary: f32[H, W, C], -log p.
      image, crf, valid: see `refine_probabilities`.

    Returns:
      f32[H, W, C].
    """
    image = image.astype(jnp.float32)
    valid = jnp.ones(unary.shape[:2], bool) if valid is None else valid

    def run(make_kernels: Callable[..., list[_Kernel]], *maps: Array) -> Array:
        return _run_mean_field(crf, make_kernels, *maps)

    exact, lattice = (
        lambda *maps, make=make: run(make, *maps)
        for make in (_make_exact_kernels, _make_lattice_kernels)
    )
    maps = unary, image, valid
    if crf.filter == 'auto':
        return by_platform(*maps, default=lattice, tpu=exact)
    return (exact if crf.filter == 'exact' else lattice)(*maps)


def _run_mean_field(
    crf: DenseCrf,
    make_kernels: Callable[[DenseCrf, Array, Array], list[_Kernel]],
    unary: Array,
    image: Array,
    valid: Array,
) -> Array:
    height, width, num_classes = unary.shape
    kernels = make_kernels(crf, image, valid)
    unary = unary.reshape(-1, num_classes)
    is_valid = valid.reshape(-1, 1).astype(jnp.float32)
    factors = [_normalize(kernel, is_valid, crf.normalization) for kernel in kernels]

    def update(_: Any, state: tuple[Array, list[PyTree]]) -> tuple[Array, list[PyTree]]:
        marginals, scratches = state
        logits, after = -unary, []
        for kernel, (before, behind), scratch in zip(kernels, factors, scratches, strict=True):
            message, scratch = kernel.apply(marginals * before, scratch)
            logits += message * behind
            after.append(scratch)
        return jax.nn.softmax(logits), after

    start = jax.nn.softmax(-unary), [kernel.make_scratch(num_classes) for kernel in kernels]
    marginals, _ = lax.fori_loop(0, crf.num_iterations, update, start)
    return marginals.reshape(height, width, num_classes)


def _normalize(kernel: _Kernel, is_valid: Array, normalization: str) -> tuple[Array, Array]:
    """Returns the factors of values before and behind a kernel, f32[N, 1] each."""
    weight = jnp.full_like(is_valid, kernel.weight)
    if normalization == 'none':
        return is_valid, weight
    total = kernel.apply(is_valid, kernel.make_scratch(1))[0] + _TINY
    if normalization == 'symmetric':
        return is_valid * total**-0.5, weight * total**-0.5
    if normalization == 'before':
        return is_valid / total, weight
    return is_valid, weight / total


def _make_exact_kernels(crf: DenseCrf, image: Array, valid: Array) -> list[_Kernel]:
    del valid
    height, width, _ = image.shape
    points, _ = _make_points(crf, image)

    def filter_bilateral(values: Array, scratch: PyTree) -> tuple[Array, PyTree]:
        return gaussian_filter.filter_points(points, values), scratch

    def filter_spatial(values: Array, scratch: PyTree) -> tuple[Array, PyTree]:
        maps = values.reshape(height, width, -1)
        return gaussian_filter.filter_image(maps, crf.spatial_px).reshape(values.shape), scratch

    return [
        _Kernel(filter_bilateral, lambda _: (), crf.bilateral_weight),
        _Kernel(filter_spatial, lambda _: (), crf.spatial_weight),
    ]


def _make_lattice_kernels(crf: DenseCrf, image: Array, valid: Array) -> list[_Kernel]:
    is_valid = valid.reshape(-1, 1)

    def make_kernel(points: Array, weight: float) -> _Kernel:
        # Padding lies where the first pixel does: it must add no vertex.
        lattice = permutohedral.make_lattice(jnp.where(is_valid, points, points[:1]))

        def apply(values: Array, scratch: PyTree) -> tuple[Array, PyTree]:
            return permutohedral.filter_points(lattice, values, scratch)

        def make_scratch(num_channels: int) -> PyTree:
            return permutohedral.make_scratch(lattice, num_channels)

        return _Kernel(apply, make_scratch, weight)

    bilateral, spatial = _make_points(crf, image)
    return [
        make_kernel(bilateral, crf.bilateral_weight),
        make_kernel(spatial, crf.spatial_weight),
    ]


def _make_points(crf: DenseCrf, image: Array) -> tuple[Array, Array]:
    """Returns the points of the two kernels, f32[N, 2 + D] and f32[N, 2], of unit deviation."""
    height, width, channels = image.shape
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij')
    positions = jnp.stack([x, y], axis=-1).reshape(-1, 2).astype(jnp.float32)
    colors = image.reshape(-1, channels) / crf.bilateral_color
    return (
        jnp.concatenate([positions / crf.bilateral_px, colors], axis=1),
        positions / crf.spatial_px,
    )
