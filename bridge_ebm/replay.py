"""The replay buffer of section 2.2, as a pytree of static shape that lives inside the compiled training step.

The notebook keeps a Python list, newest first: it starts with one batch of uniform noise, every update puts its
batch at the front, and the list is cut to `capacity`. Here the same list is a ring: element k of the list is
`images[(front + k) % capacity]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bridge_ebm.langevin import uniform_images


class ReplayBuffer(NamedTuple):
    """`images` float32 [capacity, H, W, 1]; `front` int32 [], where the newest lies; `size` int32 [], how many are
    filled.
    """

    images: jax.Array
    front: jax.Array
    size: jax.Array


def init(key: jax.Array, capacity: int, batch_size: int, image_shape: tuple[int, int, int]) -> ReplayBuffer:
    """A buffer of `capacity` places, `batch_size` of them filled with uniform noise of shape `image_shape` (H, W, 1).

    Raises ValueError if one batch does not fit.
    """
    if batch_size > capacity:
        raise ValueError(f"a batch of {batch_size} does not fit a buffer of {capacity}")
    images = jnp.zeros((capacity, *image_shape), jnp.float32)
    images = images.at[:batch_size].set(uniform_images(key, (batch_size, *image_shape)))
    return ReplayBuffer(images, jnp.zeros((), jnp.int32), jnp.full((), batch_size, jnp.int32))


def draw(key: jax.Array, buffer: ReplayBuffer, batch_size: int, restart: float) -> jax.Array:
    """Starting images [batch_size, H, W, 1]: fresh uniform noise with probability `restart`, else drawn from the
    buffer.

    Draws are with replacement and uniform over the filled places. The number of fresh ones is Binomial(batch_size,
    restart), as in the notebook; which chains they are is drawn too, so that the shape stays static.
    """
    fresh_key, index_key, noise_key = jax.random.split(key, 3)
    shape = (batch_size, *buffer.images.shape[1:])
    fresh = jax.random.bernoulli(fresh_key, restart, (batch_size,))
    index = jax.random.randint(index_key, (batch_size,), 0, buffer.size)
    return jnp.where(fresh[:, None, None, None], uniform_images(noise_key, shape), newest(buffer, index))


def insert(buffer: ReplayBuffer, images: jax.Array) -> ReplayBuffer:
    """Put `images` [B, H, W, 1] at the front, in order; what no longer fits is dropped from the back."""
    capacity = len(buffer.images)
    front = (buffer.front - len(images)) % capacity
    places = (front + jnp.arange(len(images))) % capacity
    return ReplayBuffer(buffer.images.at[places].set(images), front, jnp.minimum(buffer.size + len(images), capacity))


def newest(buffer: ReplayBuffer, index: jax.Array) -> jax.Array:
    """The images at positions `index` [N] of the newest-first list, [N, H, W, 1]; positions below `buffer.size` are
    filled.
    """
    return buffer.images[(buffer.front + index) % len(buffer.images)]
