"""The context of a whole image, measured tile by tile.

Some networks average features over the whole image, and the average decides on the class of every
pixel. A tile alone would give another one.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from pdl_jax.ops.platforms import eval_shape
from pdl_jax.prediction.programs import Programs
from pdl_jax.prediction.tiles import Tile
from pdl_jax.runtime.sharding import replicated
from pdl_jax.systems.system import Variables
from pdl_jax.typing import Array, PyTree


def has_context(programs: Programs, variables: Variables) -> bool:
    """Returns whether a network averages features over the whole image.

    Networks that see each image resized or several times are left out: their tiles are no parts of
    what they see of the image. So are ensembles.
    """
    evaluate = programs.evaluate
    if programs.augment.resize_max_px or evaluate.scales != (1.0,) or evaluate.is_flipped:
        return False
    if programs.members:
        return False
    size = programs.system.grid.fit((65, 65))
    image = jax.ShapeDtypeStruct((1, *size, programs.num_channels), jnp.float32)
    features = eval_shape(programs.system.context_features, variables, image)
    return bool(jax.tree.leaves(features))


def measure_context(
    programs: Programs,
    variables: Variables,
    tiles: Iterable[tuple[Tile, np.ndarray]],
    canvas_size: tuple[int, int],
) -> PyTree:
    """Averages the features of an image over the cores of its tiles.

    Args:
      programs: those of a network with `has_context`.
      variables: the network's.
      tiles: each with u8[h, w, C], its window.
      canvas_size: (height, width) in pixels that holds a window.

    Returns:
      The collection 'context' of `System.context_features`: f32[1, 1, 1, D] each.
    """
    add_up = programs.keep(('context', canvas_size), lambda: _make_adder(programs, canvas_size))
    total = None
    for tile, image in tiles:
        padded = np.zeros((1, *canvas_size, image.shape[2]), np.uint8)
        padded[0, : image.shape[0], : image.shape[1]] = image
        core, window = tile.core, tile.window
        # The padding at the end of the image is a part of what the network sees.
        end = [
            2**30 if core_end == window_end else core_end - start
            for core_end, window_end, start in (
                (core.y1, window.y1, window.y0),
                (core.x1, window.x1, window.x0),
            )
        ]
        bounds = np.array([[core.y0 - window.y0, core.x0 - window.x0], end], np.int32)
        with jax.set_mesh(programs.mesh):
            inputs = (padded, np.array([image.shape[:2]], np.int32), bounds)
            sums = add_up(variables, *jax.device_put(inputs, replicated(programs.mesh)))
        # Sums of many tiles need more digits.
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(sums))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    mean = jax.tree.map(lambda x: (x[:-1] / x[-1]).astype(np.float32)[None, None, None], total)
    return jax.device_put(mean, replicated(programs.mesh))


def _make_adder(programs: Programs, canvas_size: tuple[int, int]) -> Callable[..., PyTree]:
    """Makes the function that adds up the features in the core of a tile.

    Returns:
      A function of the variables, u8[1, H, W, C], its i32[1, 2] (height, width) in pixels, and the
      i32[2, 2] first and end (y, x) of the core in it, that returns f32[D + 1] for each map: sums,
      and the number of features.
    """
    system = programs.system
    inference = programs.make_inference(canvas_size)
    stride = system.grid.stride

    @jax.jit
    def add_up(variables: Variables, image: Array, size: Array, bounds: Array) -> PyTree:
        images, _ = inference.prepare(image, size)

        def add(x: Array) -> Array:
            # A feature belongs to the tile whose core has its first pixel.
            is_row, is_column = (
                (stride * jnp.arange(n) >= bounds[0, axis])
                & (stride * jnp.arange(n) < bounds[1, axis])
                for axis, n in enumerate(x.shape[1:3])
            )
            inside = is_row[:, None] & is_column[None, :]
            total = jnp.sum(
                jnp.where(inside[None, :, :, None], x.astype(jnp.float32), 0.0), axis=(0, 1, 2)
            )
            return jnp.append(total, jnp.sum(inside, dtype=jnp.float32))

        return jax.tree.map(add, system.context_features(variables, images))

    return add_up
