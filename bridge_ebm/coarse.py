"""Coarse pictures: what a model of a smaller size gives one of a larger size to begin with.

A cascade, as in Zhao et al., "Learning Energy-Based Generative Models via Coarse-to-Fine Expanding and Sampling", 2021,
and Ho et al., "Cascaded Diffusion Models", 2022: the layout is found at a small size, where chains find it easily, and
the larger energy is asked only for what the small picture cannot show.
"""

import jax
import jax.numpy as jnp

from bridge_ebm import langevin, raster

# The most noise among a coarse picture, as a share: it covers what a drawn picture has that a reduced one has not.
NOISE = 0.2
# Of a training with coarse pictures, the share of regression's paths, and of the finish's fresh chains, that begin
# there; no path begins at pictures of other classes then.
SHARE = 0.5


def reduced(images: jax.Array, height: int) -> jax.Array:
    """`images` [B, H, W, 1] in the same proportions `height` pixels high, by exact area averages as the data are."""
    width = round(images.shape[2] * height / images.shape[1])
    for axis, size in ((1, height), (2, width)):
        along = [1, 1, 1, 1]
        along[axis] = size
        taps = zip(*raster.taps(images.shape[axis], size), strict=True)
        terms = [jnp.take(images, pixels, axis) * shares.reshape(along) for pixels, shares in taps]
        images = jnp.sum(jnp.stack(terms), axis=0)
    return images


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
