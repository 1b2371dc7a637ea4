"""Gradients of sums over a batch, a few images at a time where that is what fits the cache or the memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from bridge_ebm import parallel
from bridge_ebm.convolution import CONVOLVED

# Small parts use the same memory again and again, whole batches meet fresh pages: 8 halves of 48 x 96 at a time make an
# update of gradient regression a third faster than all 64 (BUILD_NOTES.md).
CHUNK_PIXELS = 8 * 48 * 96

# (params, part of the batch) -> (sum over its images, figures of each image)
SumOverImages = Callable[[Any, Any], tuple[jax.Array, Any]]


class Means(NamedTuple):
    """How a gradient is taken, which changes nothing but its rounding: on the devices of `mesh`, each at most
    `microbatch` members of its share at a time (0: what fits the cache on a CPU, elsewhere all), with `remat` keeping
    only what convolutions give and computing the rest again on the way back.
    """

    mesh: Mesh | None = None
    microbatch: int = 0
    remat: bool = False


_ALONE = Means()


def gradient_of_sum(function: SumOverImages, params: Any, batch: Any, means: Means = _ALONE) -> tuple[Any, Any]:
    """The gradient in `params` of `function(params, batch)[0]`, and its figures [B, ...] of each image.

    `batch` is a pytree of arrays [B, ...], the first of them images [B, H, W, 1] or pairs of them [B, 2, H, W, 1];
    `function` a sum over its members, so it may be taken device by device and part by part. The parts of a share are
    equal: as large as the bound allows among the divisors of its length. Other arrays that the function needs are
    bound in a `jax.tree_util.Partial`.
    """
    # A Partial is a pytree of what is bound in it, which so reaches every device.
    known = jax.tree_util.Partial(function), params

    def whole(known: Any, batch: Any) -> tuple[Any, Any]:
        function, params = known
        if means.remat:
            function = jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))
        return jax.grad(function, has_aux=True)(params, batch)

    def share(known: Any, batch: Any) -> tuple[Any, Any]:
        if means.microbatch:
            return _in_parts(whole, means.microbatch, known, batch)
        fits = max(1, CHUNK_PIXELS // jax.tree.leaves(batch)[0][0].size)
        return lax.platform_dependent(known, batch, cpu=partial(_in_parts, whole, fits), default=whole)

    return parallel.sum_by_shares(share, known, batch, mesh=means.mesh)


def _in_parts(whole: Callable[[Any, Any], tuple[Any, Any]], most: int, known: Any, batch: Any) -> tuple[Any, Any]:
    """`whole` on equal parts of the batch of at most `most` members, one after the other."""
    count = len(jax.tree.leaves(batch)[0])
    size = max(size for size in range(1, min(most, count) + 1) if count % size == 0)
    if size == count:
        return whole(known, batch)
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        gradient, figures = whole(known, part)
        return jax.tree.map(jnp.add, total, gradient), figures

    total, figures = lax.scan(add, jax.tree.map(jnp.zeros_like, known[1]), parts)
    return total, jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), figures)
