"""The replay buffer of section 2.2, as a pytree of static shape that lives inside the compiled training step.

The notebook keeps a Python list, newest first: it starts with one batch of uniform noise, every update puts its
batch at the front, and the list is cut to `capacity`. Here the same list is a ring of rounds of B pictures: element k
of the list is `images[k % B, (front + k // B) % R]`. Row b holds what chain b has left, so on several devices, which
share out the chains, the rows never move.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from bridge_ebm import parallel
from bridge_ebm.langevin import uniform_images

# What a chain may continue from. "whole": any picture of the buffer, as in the paper. "rounded": the same, rounded to
# the 256 grey levels of a picture file, so that a picture that moves to another device is a byte a pixel. "own": those
# that the chain of this number has left, so that none moves.
Choice = Literal["whole", "rounded", "own"]


class ReplayBuffer(NamedTuple):
    """`images` float32 [B, R, H, W, 1], R rounds of the B chains; `front` int32 [], the newest round; `size` int32 [],
    how many pictures are filled, at most the capacity (the last round may exceed it).

    A buffer of places, into which nothing is inserted but places are `put`, has `images` [N, H, W, 1].
    """

    images: jax.Array
    front: jax.Array
    size: jax.Array


def init(
    key: jax.Array, capacity: int, batch_size: int, image_shape: tuple[int, int, int], mesh: Mesh | None = None
) -> ReplayBuffer:
    """A buffer for `capacity` pictures in rounds of `batch_size`, the first round uniform noise of `image_shape` (H, W,
    1).

    Raises ValueError if one batch does not fit.
    """
    if batch_size > capacity:
        raise ValueError(f"a batch of {batch_size} does not fit a buffer of {capacity}")
    first = parallel.constrain(uniform_images(key, (batch_size, *image_shape)), parallel.cut(mesh))
    later = ((0, 0), (0, -(-capacity // batch_size) - 1), (0, 0), (0, 0), (0, 0))
    images = parallel.constrain(jnp.pad(first[:, None], later), parallel.cut(mesh))
    return ReplayBuffer(images, jnp.zeros((), jnp.int32), jnp.full((), batch_size, jnp.int32))


def init_places(
    key: jax.Array, count: int, image_shape: tuple[int, int, int], mesh: Mesh | None = None
) -> ReplayBuffer:
    """A buffer of `count` places, all filled with uniform noise."""
    rounds = init(key, count, count, image_shape, mesh)
    return rounds._replace(images=rounds.images[:, 0])


def draw(
    key: jax.Array, buffer: ReplayBuffer, restart: float, choice: Choice = "whole", mesh: Mesh | None = None
) -> jax.Array:
    """Starting images [B, H, W, 1]: fresh uniform noise with probability `restart`, else drawn from the buffer.

    Draws are with replacement and uniform over the filled places that `choice` allows. The number of fresh ones is
    Binomial(B, restart), as in the notebook; which chains they are is drawn too, so that the shape stays static.
    """
    batch_size, image_shape = len(buffer.images), buffer.images.shape[2:]
    fresh_key, index_key, noise_key = jax.random.split(key, 3)
    fresh = jax.random.bernoulli(fresh_key, restart, (batch_size,))
    if choice == "own":
        age = jax.random.randint(index_key, (batch_size,), 0, buffer.size // batch_size)
        kept = _of_each_chain(buffer, age, mesh)
    else:
        index = jax.random.randint(index_key, (batch_size,), 0, buffer.size)
        rows, rounds = index % batch_size, _round(buffer, index // batch_size)
        kept = take(buffer.images, (rows, rounds), choice == "rounded", mesh)
    noise = parallel.constrain(uniform_images(noise_key, (batch_size, *image_shape)), parallel.cut(mesh))
    return jnp.where(fresh[:, None, None, None], noise, kept)


def insert(buffer: ReplayBuffer, images: jax.Array, capacity: int, mesh: Mesh | None = None) -> ReplayBuffer:
    """Put `images` [B, H, W, 1] at the front, in order; what then exceeds `capacity` is no longer in the buffer."""
    front = (buffer.front - 1) % buffer.images.shape[1]

    def share(front: jax.Array, rows: jax.Array, images: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(rows, images, front, 1)

    rows = parallel.by_shares(share, front, buffer.images, images, mesh=mesh)
    return ReplayBuffer(rows, front, jnp.minimum(buffer.size + len(images), capacity))


def newest(buffer: ReplayBuffer, index: jax.Array) -> jax.Array:
    """The images at positions `index` [N] of the newest-first list, [N, H, W, 1]; positions below `buffer.size` are
    filled.
    """
    if buffer.images.ndim == 4:
        return buffer.images[index]
    return buffer.images[index % len(buffer.images), _round(buffer, index // len(buffer.images))]


def newest_on_all(buffer: ReplayBuffer, index: np.ndarray) -> jax.Array:
    """As `newest`, compiled, the pictures whole on every device that has a share of the buffer."""
    return _newest_on(buffer.front.sharding)(buffer, index)


@cache
def _newest_on(sharding: jax.sharding.Sharding) -> Callable[[ReplayBuffer, np.ndarray], jax.Array]:
    return jax.jit(newest, out_shardings=sharding)


def take(images: jax.Array, index: tuple[jax.Array, ...], rounded: bool, mesh: Mesh | None) -> jax.Array:
    """Pictures [B, H, W, 1] of the buffer's `images` by row and round, or by place, int32 [B] each; cut as the rows."""
    if not rounded:
        return parallel.take(images, index, mesh)
    return _from_bytes(parallel.take(images, index, mesh, _to_bytes))


def put(images: jax.Array, places: jax.Array, new: jax.Array, rounded: bool, mesh: Mesh | None) -> jax.Array:
    """The `images` [N, H, W, 1] of a buffer of places, those at `places` int32 [B] replaced by `new`."""
    values = _from_bytes(parallel.gathered(_to_bytes(new), mesh)) if rounded else parallel.gathered(new, mesh)
    return parallel.put(images, places, values, mesh)


def _round(buffer: ReplayBuffer, age: jax.Array) -> jax.Array:
    return (buffer.front + age) % buffer.images.shape[1]


def _of_each_chain(buffer: ReplayBuffer, age: jax.Array, mesh: Mesh | None) -> jax.Array:
    """The picture that each chain left `age` [B] updates ago."""

    def share(_: None, rows: jax.Array, rounds: jax.Array) -> jax.Array:
        return rows[jnp.arange(len(rows)), rounds]

    return parallel.by_shares(share, None, buffer.images, _round(buffer, age), mesh=mesh)


def _to_bytes(images: jax.Array) -> jax.Array:
    return (images * 127.5 + 127.5).round().clip(0, 255).astype(jnp.uint8)


def _from_bytes(pictures: jax.Array) -> jax.Array:
    return (pictures.astype(jnp.float32) - 127.5) / 127.5
