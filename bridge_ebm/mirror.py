"""Bridges are mirror symmetric, so half a picture says it all: halves of pictures, and energies made of halves.

A half is what one sees left of the middle, or right of it in a mirror: [B, H, W/2, 1] of a picture [B, H, W, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The author's scaled pictures match their mirror image to 0.10 of their ink at most, those he rotated by 0.3 degrees
# to 0.12 at least, at 32 x 128, 48 x 192 and 128 x 512.
_ASYMMETRY = 0.115


def halves(images: Any) -> Any:
    """The left half and the mirrored right half of each picture: [B, H, W, ...] to [2 B, H, W/2, ...], all left ones
    first. For NumPy and JAX arrays; W must be even.
    """
    middle = images.shape[2] // 2
    concatenate = jnp.concatenate if isinstance(images, jax.Array) else np.concatenate
    return concatenate([images[:, :, :middle], images[:, :, middle:][:, :, ::-1]])


def unfold(left: jax.Array) -> jax.Array:
    """The symmetric pictures [B, H, W, 1] of left halves [B, H, W/2, 1]."""
    return jnp.concatenate([left, left[:, :, ::-1]], axis=2)


def energy_of_halves(half_energy: Any, images: jax.Array) -> jax.Array:
    """E(x) = E_half(left half) + E_half(mirrored right half), energies [B] of images [B, H, W, 1].

    A chain from symmetric noise stays symmetric as long as no noise is added on the way.
    """
    return half_energy(halves(images)).reshape(2, len(images)).sum(0)


def centred(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which uint8 pictures [N, H, W], bright on black, mirror onto themselves, bool [N] (the paper's rotated ones do
    not), and those, moved by whole columns until they do so about their middle, or half a column beside it.

    What leaves a picture is lost; what comes in repeats the outermost column: a deck that runs to the frame goes on.
    """
    found = [_best_axis(part) for part in np.array_split(images, len(images) // 512 + 1)]
    apart, off = (np.concatenate(each) for each in zip(*found, strict=True))
    keep = apart <= _ASYMMETRY
    width = images.shape[2]
    columns = (np.arange(width) + off[keep, None]).clip(0, width - 1)
    return keep, np.take_along_axis(images[keep], columns[:, None], axis=2)


def _best_axis(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far pictures are from their mirror image, 0 (symmetric) to 1, float [N]: the sum of |x - mirror(x)| over
    twice the ink, for the vertical axis that fits best within W/128 of the middle, and of those the nearest to it. And
    how many whole columns that axis is right of the middle, int [N].
    """
    x = images.astype(np.int16)
    reach = max(1, images.shape[2] // 64)
    shifts = np.array(sorted(range(-reach, reach + 1), key=abs))
    apart = np.array([np.abs(x - np.roll(x[:, :, ::-1], shift, 2)).sum((1, 2)) for shift in shifts])
    # A picture is its mirror image moved by twice what its axis is off.
    return apart.min(0) / np.maximum(2 * x.sum((1, 2)), 1), np.trunc(shifts[apart.argmin(0)] / 2).astype(int)
