"""Data parallelism over a mesh with the one axis `data`: what lies where, and how a function runs on every share.

Batches, chains and the replay buffer are cut along their first axis, an equal share for every device; weights,
optimiser and data set lie whole on all. A mesh of None stands for one device and no mesh: every function here is then a
plain call, so the program of one device knows nothing of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bridge_ebm.errors import InputError

AXIS = "data"


def data_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """A mesh of as many of the devices (None: all there are) as can share out each of `sizes` equally; None for one
    that is the default.

    `sizes` maps flags to numbers of pictures. Raises an `InputError` that names them where several processes run and
    one would be left without work.
    """
    devices = jax.devices() if devices is None else devices
    count = max(n for n in range(1, len(devices) + 1) if not any(size % n for size in sizes.values()))
    if jax.process_count() > 1 and count < len(devices):
        odd = ", ".join(f"--{flag}={size}" for flag, size in sizes.items() if size % len(devices))
        raise InputError(f"{odd}: cannot be shared by {len(devices)} devices; use multiples of {len(devices)}")
    if count == 1 and jax.process_count() == 1 and devices[0] == jax.local_devices()[0]:
        return None
    return Mesh(np.asarray(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """Where an array lies of which every device has a copy."""
    return None if mesh is None else NamedSharding(mesh, P())


def cut(mesh: Mesh | None) -> NamedSharding | None:
    """Where an array lies of which every device has an equal share of the first axis."""
    return None if mesh is None else NamedSharding(mesh, P(AXIS))


def constrain(tree: Any, sharding: NamedSharding | None) -> Any:
    """Within `jit`: arrays that lie as `sharding` says. Random draws of which each device keeps its share are made so:
    JAX computes bit i of a draw from (key, i), on whichever device needs it.
    """
    return tree if sharding is None else jax.tree.map(lambda x: lax.with_sharding_constraint(x, sharding), tree)


def by_shares(function: Callable[..., Any], known: Any, *arrays: Any, mesh: Mesh | None) -> Any:
    """`function(known, *arrays)` where each element of the result depends on that element of the arrays alone: every
    device computes its share. `known` is whole on every device; the function closes over no array.
    """
    if mesh is None:
        return function(known, *arrays)
    specs = (P(), *(P(AXIS) for _ in arrays))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)(known, *arrays)


def by_shares_of_any(function: Callable[..., Any], known: Any, *arrays: Any, mesh: Mesh | None) -> Any:
    """As `by_shares` for a number of elements that the devices need not be able to share out; the result is whole."""
    count = len(jax.tree.leaves(arrays)[0])
    if mesh is None or count == 0:
        return function(known, *arrays)

    def filled_up(*arrays: Any) -> Any:
        full = jnp.arange(-(-count // mesh.size) * mesh.size) % count  # with repeats, whose results are dropped
        return jax.tree.map(lambda x: x[full], arrays)

    shares = by_shares(function, known, *on_every_device(filled_up, *arrays, mesh=mesh), mesh=mesh)
    return jax.tree.map(lambda x: gathered(x, mesh)[:count], shares)


def sum_by_shares(
    function: Callable[..., tuple[Any, Any]], known: Any, *arrays: Any, mesh: Mesh | None
) -> tuple[Any, Any]:
    """As `by_shares`, for a function that gives (sum over the elements, figures of each): the sums are added up."""
    if mesh is None:
        return function(known, *arrays)

    def share(known: Any, *arrays: Any) -> tuple[Any, Any]:
        total, figures = function(known, *arrays)
        return lax.psum(total, AXIS), figures

    specs = (P(), *(P(AXIS) for _ in arrays))
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=(P(), P(AXIS)), check_vma=False)(known, *arrays)


def on_every_device(function: Callable[..., Any], *arrays: Any, mesh: Mesh | None) -> Any:
    """`function(*arrays)` of whole arrays, computed by every device for itself: cheaper than sending the result."""
    if mesh is None:
        return function(*arrays)
    return jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(*arrays)


def gathered(array: jax.Array, mesh: Mesh | None) -> jax.Array:
    """A cut array, whole on every device."""
    if mesh is None:
        return array

    def share(array: jax.Array) -> jax.Array:
        return lax.all_gather(array, AXIS, tiled=True)

    return jax.shard_map(share, mesh=mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False)(array)


def take(
    array: jax.Array,
    index: tuple[jax.Array, ...],
    mesh: Mesh | None,
    encode: Callable[[jax.Array], jax.Array] = lambda taken: taken,
) -> jax.Array:
    """`encode(array[index])` of a cut array [N, ...] for whole int32 [B] in `index`, cut again.

    Nothing of the array moves but what is taken, encoded: every device offers what it holds of it and zeros, and the
    sums are scattered. (Which device holds a place is not known before the program runs, so each offers B elements.)
    """
    if mesh is None:
        return encode(array[index])

    def share(array: jax.Array, places: jax.Array, *within: jax.Array) -> jax.Array:
        local = places - lax.axis_index(AXIS) * len(array)
        mine = (local >= 0) & (local < len(array))
        held = encode(array[(jnp.clip(local, 0, len(array) - 1), *within)])
        offered = jnp.where(mine.reshape(-1, *(1,) * (held.ndim - 1)), held, jnp.zeros((), held.dtype))
        return lax.psum_scatter(offered, AXIS, tiled=True)

    specs = (P(AXIS), *(P() for _ in index))
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)(array, *index)


def put(array: jax.Array, places: jax.Array, values: jax.Array, mesh: Mesh | None) -> jax.Array:
    """`array.at[places].set(values)` of a cut array [N, ...] for whole places int32 [B], all different, and values."""
    if mesh is None:
        return array.at[places].set(values)

    def share(array: jax.Array, places: jax.Array, values: jax.Array) -> jax.Array:
        local = places - lax.axis_index(AXIS) * len(array)
        outside = (local < 0) | (local >= len(array))
        return array.at[jnp.where(outside, len(array), local)].set(values, mode="drop")

    specs = (P(AXIS), P(), P())
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)(array, places, values)


def copied(array: np.ndarray, mesh: Mesh | None) -> jax.Array:
    """An array that every process holds, whole on every device."""
    if mesh is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, P()), lambda index: array[index])


def local_copy(tree: Any) -> Any:
    """This process's own copy, on one device, of arrays that are whole on all: to go on with alone."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
