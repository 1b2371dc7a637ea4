"""Spoilt copies of real pictures, to see whether an energy or a measure notices.

Each takes and returns pictures uint8 [N, H, W], bright on black, of any size; lengths are shares of it.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from bridge_ebm.definition import checked

Array = np.ndarray


def blurred(images: Array) -> Array:
    """Blurred by a Gaussian of 1/48 of the height: 1 pixel at 48 x 192."""
    sigma = checked(images).shape[1] / 48
    return _grey(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma)))


def noisy(images: Array) -> Array:
    """With noise of a tenth of the grey range on every pixel (NumPy's PCG64, seed 0)."""
    random = np.random.Generator(np.random.PCG64(0))
    return _grey(images + 25.5 * random.standard_normal(checked(images).shape))


def averaged(images: Array) -> Array:
    """The pixel average of each picture and the one half the set further on: with the sub-types in turn or in a row,
    one of another sub-type.
    """
    other = np.roll(checked(images), len(images) // 2, axis=0)
    return _grey((images.astype(np.float32) + other) / 2)


def cut(images: Array) -> Array:
    """A fifth of the width blank, left of the middle: the deck is broken."""
    spoilt = checked(images).copy()
    width = images.shape[2]
    spoilt[:, :, round(0.25 * width) : round(0.45 * width)] = 0
    return spoilt


CORRUPTIONS: Mapping[str, Callable[[Array], Array]] = {
    "blurred": blurred,
    "noisy": noisy,
    "averaged": averaged,
    "cut": cut,
}


def _grey(values: Array) -> Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
