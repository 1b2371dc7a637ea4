"""How well defined a picture is: softness, line contrast, background and ghost, each beside its range on real pictures.

The four figures of one picture, its grey I from 0 (empty) to 1 (bridge), at its own size:

softness       6 sum I (1 - I) / sum |grad I| by forward differences, pixels: 1 for the edge of a box filter, about
               3.4 sigma after a Gaussian blur
line_contrast  10th percentile of the 3 x 3 maximum along the skeleton of I > 0.2
background     root mean square of I farther than 4 pixels from I > 0.2
ghost          share of the ink (I > 0.02: below that nobody sees it) farther than 2 pixels from the members, which
               hysteresis finds (0.16 / 0.30; 0.10 / 0.22 in small pictures, whose thin lines are narrower than a pixel)

The real range of a figure is its minimum and maximum over the 8 x 16 base pictures drawn at that size. More contrast,
less background and less ghost than any real picture has are no faults. The base pictures have none of the last two;
a grey level of background is allowed (rotated real pictures have as much), and a ghost of half the faintest half-formed
member that was ever seen.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import skeletonize

from bridge_ebm import bridges

_INK = 0.2
_SMALL = (96, 384)  # below either, thin lines are narrower than a pixel
_CLEAR, _BESIDE = 4, 2  # pixels
_SEEN = 0.02  # grey of the faintest ghost; dust of one grey level all over adds up to 0.3% of a thin bridge
_LEAST_BACKGROUND, _LEAST_GHOST = 1 / 255, 0.005  # allowed whatever the base pictures have
Array = np.ndarray


class Definition(NamedTuple):
    """Four arrays [N], one entry a picture; NaN where a picture has no ink to measure."""

    softness: Array
    line_contrast: Array
    background: Array
    ghost: Array


class RealRange(NamedTuple):
    """(least, most) of each figure that a picture as well defined as a real one has; `inf` where there is no limit."""

    softness: tuple[float, float]
    line_contrast: tuple[float, float]
    background: tuple[float, float]
    ghost: tuple[float, float]


def checked(images: Array) -> Array:
    """`images` if they are pictures: uint8 [N, H, W], bright on black, N at least 1. Raises ValueError otherwise."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 3 or not images.size:
        what = f"{images.dtype} {list(images.shape)}" if hasattr(images, "dtype") else type(images).__name__
        raise ValueError(
            f"the measures take pictures as a uint8 array [N, H, W], bright on black, not {what}; "
            "bridge_ebm.data.to_uint8 makes one of float images [N, H, W, 1] in [-1, 1]"
        )
    return images


def definition(images: Array) -> Definition:
    """The four figures of every picture, uint8 [N, H, W]; about 2 ms each at 48 x 192 and 9 ms at 128 x 512."""
    return Definition(*np.array([_figures(image / 255.0) for image in checked(images)]).T)


def _figures(grey: Array) -> tuple[float, float, float, float]:
    ink, lines = grey > _INK, skeletonize(grey > _INK)
    slopes = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]).sum()
    contrast = np.percentile(ndimage.maximum_filter(grey, 3)[lines], 10) if lines.any() else np.nan
    ground = grey[_farther(ink, _CLEAR)]
    small = grey.shape[0] < _SMALL[0] or grey.shape[1] < _SMALL[1]
    members = apply_hysteresis_threshold(grey, *((0.10, 0.22) if small else (0.16, 0.30)))
    visible = np.where(grey > _SEEN, grey, 0.0)
    return (
        6 * (grey * (1 - grey)).sum() / slopes if slopes else np.nan,
        contrast,
        float(np.sqrt((ground**2).mean())) if ground.size else np.nan,
        visible[_farther(members, _BESIDE)].sum() / visible.sum() if visible.any() else np.nan,
    )


def _farther(mask: Array, pixels: float) -> Array:
    """Where it is farther than `pixels` to the nearest pixel of the mask; everywhere, when that is empty."""
    if not mask.any():
        return np.ones_like(mask)
    return np.asarray(ndimage.distance_transform_edt(~mask)) > pixels


@functools.lru_cache(maxsize=8)
def real_range(height: int, width: int) -> RealRange:
    """The range of each figure over the 8 x 16 base pictures drawn at this size (about 0.3 s and 1 s, once)."""
    names = [(subtype, k) for subtype in bridges.SUBTYPES for k in range(bridges.WIDTHS)]
    real = definition(np.stack([bridges.render(*name, height, width) for name in names]))
    return RealRange(
        softness=(float(np.nanmin(real.softness)), float(np.nanmax(real.softness))),
        line_contrast=(float(np.nanmin(real.line_contrast)), np.inf),
        background=(0.0, max(float(np.nanmax(real.background)), _LEAST_BACKGROUND)),
        ghost=(0.0, max(float(np.nanmax(real.ghost)), _LEAST_GHOST)),
    )


def in_range(figures: Definition, height: int, width: int) -> Definition:
    """Four bool arrays [N]: whether each figure lies in the real range of that size. NaN does not."""
    pairs = zip(figures, real_range(height, width), strict=True)
    return Definition(*((low - 1e-9 <= values) & (values <= high + 1e-9) for values, (low, high) in pairs))


def is_sharp(images: Array) -> Array:
    """Whether all four figures of each picture, uint8 [N, H, W], lie in the real range of its size; bool [N]."""
    return np.all(in_range(definition(images), *images.shape[1:]), axis=0)


def blends_decidable(height: int, width: int) -> bool:
    """Whether definition tells the pixel average of two bridges from a real picture at this size.

    Where thin lines are narrower than a pixel they are as grey as an average: at 48 x 192 one average in eight looks
    defined (of thick members one in four), at 128 x 512 none of 168. There judge it by structure and energy too.
    """
    return height >= _SMALL[0] and width >= _SMALL[1]
