"""The device mesh and the placement of arrays on it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pdl_jax.typing import Array, PyTree

# Gathering a smaller array costs more time than its memory is worth.
_MIN_SHARDED_SIZE = 1 << 13


def make_mesh(
    data: int = -1,
    space: int = 1,
    # jaxlib's stub declares the class as a variable.
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """Makes the mesh with axes 'data' (the batch) and 'space' (image rows).

    The axes are Auto: with Explicit axes, the default of `jax.make_mesh`, flax.linen breaks.

    Args:
      data: number of devices along the batch; -1 takes all that `space` leaves.
      space: number of devices along the rows of an image.
      devices: the devices to use; by default all devices of all processes.

    Raises:
      ValueError: the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if space < 1 or len(devices) % space:
        raise ValueError(
            f'mesh.space (={space}) must divide the number of devices (={len(devices)})'
        )
    if data == -1:
        data = len(devices) // space
    if data * space != len(devices):
        raise ValueError(
            f'mesh.data (={data}) times mesh.space (={space}) must equal the number of devices '
            f'(={len(devices)}); set mesh.data=-1 to take all that are left'
        )
    mesh = jax.make_mesh(
        (data, space), ('data', 'space'), axis_types=(AxisType.Auto,) * 2, devices=devices
    )
    # Keep the rows of each process contiguous and in process order: random augmentation depends on
    # the order of a batch, which must not depend on the number of processes.
    order = sorted(range(data), key=lambda row: _find_owners(mesh)[row])
    return Mesh(mesh.devices[order], mesh.axis_names, axis_types=mesh.axis_types)


def find_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """Finds the part of each global batch that this process feeds.

    Returns:
      (index of the part, number of equal parts). Processes whose devices share images feed the same
      part.

    Raises:
      ValueError: a process has whole images and parts of others.
    """
    owners = _find_owners(mesh)
    groups = list(dict.fromkeys(owners))
    if sum(map(len, groups)) > len(set().union(*groups)):
        raise ValueError(
            f'mesh.space (={mesh.shape["space"]}) must divide the devices of a process or be a '
            f'multiple of them (={len(mesh.local_devices)}): change config.mesh.space'
        )
    return next(i for i, group in enumerate(groups) if jax.process_index() in group), len(groups)


def _find_owners(mesh: Mesh) -> list[tuple[int, ...]]:
    """Lists, for each position along 'data', the indices of the processes that hold it."""
    return [tuple(sorted({device.process_index for device in row})) for row in mesh.devices]


def replicated(mesh: Mesh) -> NamedSharding:
    """Makes the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Makes the sharding of input batches: split over 'data', replicated over 'space'.

    Rows are not split, since JAX places only arrays whose size the number of devices divides, and
    image heights are odd.
    """
    return NamedSharding(mesh, P('data'))


def place_state(abstract_state: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> PyTree:
    """Chooses the shardings of the arrays of a training state.

    Args:
      abstract_state: anything with shapes.
      mesh: the devices.
      rules: (regex, rule) pairs; the first whose regex matches somewhere in the path of an array
        applies. Paths are such as 'params/backbone/conv1/kernel',
        'opt_state/0/mu/backbone/conv1/kernel' or 'ema_variables/params/...'. 'replicated' puts a
        copy on every device, the default; 'largest' splits the largest dimension that is divisible
        by the number of devices along 'data', unless the array is small.

    Returns:
      The same tree of ShapeDtypeStructs with shardings.
    """

    def place(path: jax.tree_util.KeyPath, leaf: Any) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        rule = next((rule for regex, rule in rules if re.search(regex, name)), 'replicated')
        sizes = [n if n % mesh.shape['data'] == 0 else 0 for n in leaf.shape]
        sharding = replicated(mesh)
        if rule == 'largest' and leaf.size >= _MIN_SHARDED_SIZE and any(sizes):
            sharding = NamedSharding(mesh, P(*(None,) * sizes.index(max(sizes)), 'data'))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def shard_batch(batch: PyTree, mesh: Mesh) -> dict[str, Array]:
    """Puts this process's part of a batch of NumPy arrays on its devices.

    Returns:
      The same tree of global arrays, which span all processes.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
