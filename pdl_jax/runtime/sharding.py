"""The device mesh and where arrays lie on it."""

import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pdl_jax.typing import Array, PyTree

PARAM_RULES = ('replicated', 'largest')
# To fetch the rest of a smaller array takes longer than its memory is worth.
_MIN_SHARDED_SIZE = 1 << 13


def make_mesh(data: int = -1, space: int = 1, devices=None) -> Mesh:
    """Makes the mesh with axes 'data' (the batch) and 'space' (image rows).

    The axes are Auto: with Explicit axes, the default of `jax.make_mesh`, flax.linen breaks.

    Args:
      data: devices along the batch; -1 takes what `space` leaves.
      space: devices along the rows of an image.
      devices: by default all of them, on all processes.

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
    # The rows that a process feeds lie together, in the order of processes, so that the order of a batch, which random
    # augmentation depends on, is the same for any number of them.
    order = sorted(range(data), key=lambda row: _find_owners(mesh)[row])
    return Mesh(mesh.devices[order], mesh.axis_names, axis_types=mesh.axis_types)


def find_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """Which part of each global batch this process feeds.

    Returns:
      (index, count) of the part, of equal ones. Processes whose devices share images feed the same part.

    Raises:
      ValueError: a process has whole images and parts of others.
    """
    owners = _find_owners(mesh)
    groups = list(dict.fromkeys(owners))
    if sum(map(len, groups)) > len(set().union(*groups)):
        raise ValueError(
            f'mesh.space (={mesh.shape["space"]}) must divide the devices of a process or be a multiple of them, '
            f'{len(mesh.local_devices)} here: set config.mesh.space so'
        )
    return next(i for i, group in enumerate(groups) if jax.process_index() in group), len(groups)


def _find_owners(mesh):
    """For each position along 'data' the processes that hold it."""
    return [tuple(sorted({device.process_index for device in row})) for row in mesh.devices]


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over 'data', copies over 'space': how batches are fed, since odd image sizes cannot be split."""
    return NamedSharding(mesh, P('data'))


def place_state(abstract_state: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> PyTree:
    """Chooses where the arrays of a training state lie.

    Args:
      abstract_state: anything with shapes.
      mesh: the devices.
      rules: (regex, rule) pairs. The first whose regex matches somewhere in the path of an array, such as
        'params/backbone/conv1/kernel', 'opt_state/0/mu/backbone/conv1/kernel' or 'ema_variables/params/...', decides:
        'replicated' puts a copy on every device, as for arrays that no regex matches; 'largest' splits the largest dimension
        that the devices along 'data' divide, of arrays that are worth it.

    Returns:
      The same tree of ShapeDtypeStructs with shardings.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        rule = next((rule for regex, rule in rules if re.search(regex, name)), 'replicated')
        sizes = [n if n % mesh.shape['data'] == 0 else 0 for n in leaf.shape]
        sharding = replicated(mesh)
        if rule == 'largest' and leaf.size >= _MIN_SHARDED_SIZE and any(sizes):
            sharding = NamedSharding(mesh, P(*(None,) * sizes.index(max(sizes)), 'data'))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def shard_batch(batch: PyTree, mesh: Mesh) -> dict[str, Array]:
    """Puts this process's share of a batch of NumPy arrays on its devices, as one global array over all processes."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
