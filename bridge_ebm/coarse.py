"""Coarse pictures: what a model of a smaller size gives one of a larger size to begin with.

A cascade, as in Zhao et al., "Learning Energy-Based Generative Models via Coarse-to-Fine Expanding and Sampling", 2021,
and Ho et al., "Cascaded Diffusion Models", 2022: the layout is found at a small size, where chains find it easily, and
the larger energy is asked only for what the small picture cannot show.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bridge_ebm import langevin

# The most noise among a coarse picture, as a share: it covers what a drawn picture has that a reduced one has not.
NOISE = 0.2


def reduced(images: jax.Array, height: int) -> jax.Array:
    """`images` [B, H, W, 1] in the same proportions `height` pixels high, by exact area averages as the data are."""
    width = round(images.shape[2] * height / images.shape[1])
    rows, columns = _overlaps(images.shape[1], height), _overlaps(images.shape[2], width)
    return jnp.einsum("bhwc,yh,xw->byxc", images, rows, columns)


def enlarged(images: jax.Array, height: int, width: int) -> jax.Array:
    """`images` [B, h, w, 1] in [-1, 1] at a larger size [B, height, width, 1], by bicubic interpolation, clipped."""
    larger = jax.image.resize(images, (len(images), height, width, 1), "bicubic")
    return jnp.clip(larger, -1.0, 1.0)


def start(key: jax.Array, small: jax.Array, height: int, width: int) -> jax.Array:
    """Where chains begin that small pictures [B, h, w, 1] are given to: enlarged, with a share of uniform noise in
    [0, NOISE], drawn for each.
    """
    share_key, noise_key = jax.random.split(key)
    share = NOISE * jax.random.uniform(share_key, (len(small), 1, 1, 1))
    noise = langevin.uniform_images(noise_key, (len(small), height, width, 1))
    return (1.0 - share) * enlarged(small, height, width) + share * noise


def _overlaps(many: int, few: int) -> np.ndarray:
    """The share [few, many] that each of `many` equal parts of a line has in each of `few`."""
    edges, ends = np.arange(many + 1) / many, np.arange(few + 1) / few
    low = np.maximum(edges[None, :-1], ends[:-1, None])
    high = np.minimum(edges[None, 1:], ends[1:, None])
    return (few * (high - low).clip(min=0.0)).astype(np.float32)
