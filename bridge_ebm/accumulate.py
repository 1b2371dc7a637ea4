"""Gradients of sums over a batch, a few images at a time where that is what fits the cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Small parts use the same memory again and again, whole batches meet fresh pages: 8 halves of 48 x 96 at a time make an
# update of gradient regression a third faster than all 64 (BUILD_NOTES.md).
CHUNK_PIXELS = 8 * 48 * 96

# (params, part of the batch) -> (sum over its images, figures of each image)
SumOverImages = Callable[[Any, Any], tuple[jax.Array, Any]]


def gradient_of_sum(function: SumOverImages, params: Any, batch: Any) -> tuple[Any, Any]:
    """The gradient in `params` of `function(params, batch)[0]`, and its figures [B, ...] of each image.

    `batch` is a pytree of arrays [B, ...], the first of them images [B, H, W, 1]; `function` a sum over images, so on a
    CPU it is taken part by part. The parts are equal: as large as CHUNK_PIXELS allows among the divisors of B.
    """

    def whole(params: Any, batch: Any) -> tuple[Any, Any]:
        return jax.grad(function, has_aux=True)(params, batch)

    return lax.platform_dependent(params, batch, cpu=partial(_in_parts, whole), default=whole)


def _in_parts(whole: Callable[[Any, Any], tuple[Any, Any]], params: Any, batch: Any) -> tuple[Any, Any]:
    images = jax.tree.leaves(batch)[0]
    most = max(1, CHUNK_PIXELS // images[0].size)
    size = max(size for size in range(1, min(most, len(images)) + 1) if len(images) % size == 0)
    if size == len(images):
        return whole(params, batch)
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        gradient, figures = whole(params, part)
        return jax.tree.map(jnp.add, total, gradient), figures

    total, figures = lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    return total, jax.tree.map(lambda x: x.reshape(len(images), *x.shape[2:]), figures)
