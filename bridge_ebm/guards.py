"""What keeps one bad update from spoiling a training: checks inside the compiled step.

Where nothing is wrong they change no bit of the result, and cost a pass over the chains and one over the weights.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

# A picture is empty if all but this share of its pixels lie at the same clip. The thinnest bridge inks some percent.
_INK = 0.001
_CLIP = 0.99
_FLAT = 0.02  # largest range of a picture without any contrast: five grey levels of 510


def not_finite(images: jax.Array) -> jax.Array:
    """Which of the images [B, H, W, 1] hold a number that is not finite, bool [B]."""
    return ~jnp.isfinite(images).all(axis=(1, 2, 3))


def saturated(images: jax.Array) -> jax.Array:
    """Which of the images [B, H, W, 1] in [-1, 1] show nothing: all black, all white or all of one grey, bool [B]."""
    black, white = (side.mean(axis=(1, 2, 3)) for side in (images <= -_CLIP, images >= _CLIP))
    flat = images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3)) < _FLAT
    return (jnp.maximum(black, white) > 1.0 - _INK) | flat


def replaced(images: jax.Array, bad: jax.Array, fresh: Callable[[], jax.Array]) -> jax.Array:
    """`images` [B, H, W, 1] with those that are `bad` [B] taken from `fresh()`, which is computed only if one is."""

    def mend() -> jax.Array:
        return jnp.where(bad[:, None, None, None], fresh(), images)

    return lax.cond(bad.any(), mend, lambda: images)


def mended(ends: jax.Array, fresh: Callable[[], jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chains' ends [B, H, W, 1] for the loss, without those that are not finite, and for the buffer, without those that
    show nothing either; and which were replaced, bool [B].
    """
    broken = not_finite(ends)
    fake = replaced(ends, broken, fresh)
    empty = saturated(fake)
    return fake, replaced(fake, empty, fresh), broken | empty


def update_is_finite(loss: jax.Array, gradient_norm: jax.Array, updates: Any) -> jax.Array:
    """Whether an update may be applied: its loss, its gradient and the steps of the weights, `updates`, are finite,
    bool [].

    Norms overflow at 1e19, where a gradient or a step is beyond use as well.
    """
    return jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(optax.tree.norm(updates))


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def chosen(accept: jax.Array, new: Any, old: Any) -> Any:
    """The pytree `new` where `accept` [] holds, else `old`."""
    # Behind a barrier, so that the choice is not compiled into what made `new`, which would round it differently.
    return jax.tree.map(lambda a, b: jnp.where(accept, a, b), lax.optimization_barrier(new), old)


def travelled(starts: jax.Array, ends: jax.Array) -> jax.Array:
    """How far chains moved in an update: root mean square change of a pixel, float32 []. 2 is black to white."""
    return jnp.sqrt(jnp.mean((ends - starts) ** 2))
