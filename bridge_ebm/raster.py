"""Antialiased drawing of straight and circular members, in metres, with NumPy alone.

A member is a line or a shallow circular arc of constant thickness. What a pixel shows of it is computed, not sampled:
a box filter across the line and across its two butt ends gives the coverage, and members are painted one over the
other in the order given. The canvas is the paper's (arXiv 2401.17657): 128 x 512 pixels at 1.5845 pixels a metre, the
origin in the middle, x to the right, y up.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

HEIGHT, WIDTH = 128, 512
PIXELS_PER_METRE = 1.5845
FILTER = 1.15  # width of the box filter in pixels, measured from the author's published renders
_SLAB = 128  # columns painted at once: keeps the boxes of slanting members small

Point = tuple[float, float]


class Member(NamedTuple):
    """One member from `start` to `end` (metres, `start` left of or above `end`), bowed up by `rise` at its middle.

    `rise` is the sagitta of a circular arc, measured square to the chord (0: straight; negative: sags). `kind` names
    the `Ink` that it is painted with.
    """

    kind: str
    start: Point
    end: Point
    rise: float = 0.0


class Ink(NamedTuple):
    """Thickness in metres, and grey value at the left and right edges of the canvas, linear between, cut at 255."""

    thickness: float
    grey_left: float = 255.0
    grey_right: float = 255.0


class _Path(NamedTuple):
    """A member in pixels: where it starts and ends, its unit tangents there, and its circle (None: a line)."""

    start: np.ndarray
    end: np.ndarray
    tangent_start: np.ndarray
    tangent_end: np.ndarray
    centre: np.ndarray | None
    radius: float


def _path(member: Member, scale: float) -> _Path:
    """`member` in pixels of a canvas `scale` times the paper's."""
    ends = np.array([member.start, member.end]) * (1, -1) * PIXELS_PER_METRE * scale
    start, end = ends + np.array([WIDTH, HEIGHT]) * scale / 2
    chord = end - start
    length = float(np.hypot(*chord))
    along = chord / length
    rise = member.rise * PIXELS_PER_METRE * scale
    if abs(rise) < 1e-3:
        return _Path(start, end, along, along, None, 0.0)
    radius = (length**2 / 4 + rise**2) / (2 * abs(rise))
    up = np.array([along[1], -along[0]])  # square to the chord; up on the screen when the chord runs to the right
    centre = (start + end) / 2 + up * (rise - np.sign(rise) * radius)
    turn = np.sign(rise)

    def tangent(point: np.ndarray) -> np.ndarray:
        spoke = (point - centre) / radius
        return turn * np.array([-spoke[1], spoke[0]])

    return _Path(start, end, tangent(start), tangent(end), centre, radius)


def _coverage(path: _Path, thickness: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the box filter at pixel centres (x [W], y [H]) that the member covers, [H, W] in [0, 1]."""
    (ax, ay), (bx, by) = path.start, path.end
    (tx, ty), (ux, uy) = path.tangent_start, path.tangent_end
    x, y = x[None, :], y[:, None]
    if path.centre is None:
        across = (x - ax) * ty - (y - ay) * tx
    else:
        across = np.hypot(x - path.centre[0], y - path.centre[1]) - path.radius
    across = np.abs(across)
    half = thickness / 2
    inside = np.minimum(across + FILTER / 2, half) - np.maximum(across - FILTER / 2, -half)
    first = (x - ax) * tx + (y - ay) * ty
    last = (bx - x) * ux + (by - y) * uy
    ends = np.clip(np.minimum(first, last) / FILTER + 0.5, 0, 1)
    return np.clip(inside / FILTER, 0, 1) * ends


def _rows(path: _Path, left: float, right: float) -> tuple[float, float]:
    """Lowest and highest y (pixels, down) that the centre line of `path` reaches between the columns left and right."""
    (ax, ay), (bx, by) = path.start, path.end
    if abs(bx - ax) < 2:
        return min(ay, by), max(ay, by)
    x = np.clip([left, right, (left + right) / 2], min(ax, bx), max(ax, bx))
    if path.centre is None:
        y = ay + (x - ax) * (by - ay) / (bx - ax)
    else:
        x = np.append(x, np.clip(path.centre[0], x.min(), x.max()))  # the crown, where it lies between
        side = np.sign((ay + by) / 2 - path.centre[1])
        y = path.centre[1] + side * np.sqrt(np.maximum(path.radius**2 - (x - path.centre[0]) ** 2, 0))
    return float(y.min()), float(y.max())


def _paint(canvas: np.ndarray, path: _Path, ink: Ink, scale: float) -> None:
    """Paint one member over `canvas` (float [H, W]), slab of columns by slab of columns."""
    height, width = canvas.shape
    thickness = ink.thickness * PIXELS_PER_METRE * scale
    margin = thickness / 2 + FILTER
    slope = ink.grey_right - ink.grey_left
    first = max(int(min(path.start[0], path.end[0]) - margin), 0)
    stop = min(int(max(path.start[0], path.end[0]) + margin) + 2, width)
    for left in range(first, stop, _SLAB):
        right = min(left + _SLAB, stop)
        top, bottom = _rows(path, left - margin, right + margin)
        rows = slice(max(int(top - margin), 0), max(min(int(bottom + margin) + 2, height), 0))
        x, y = np.arange(left, right) + 0.5, np.arange(rows.start, rows.stop) + 0.5
        alpha = _coverage(path, thickness, x, y)
        grey = np.minimum(ink.grey_left + slope * x / width, 255.0)
        patch = canvas[rows, left:right]
        patch += alpha * (grey - patch)


def draw(members: Sequence[Member], inks: Mapping[str, Ink], scale: float = 1.0) -> np.ndarray:
    """Paint `members` in order, bright on black, on a canvas `scale` times 128 x 512.

    Returns uint8 [round(128 scale), round(512 scale)].
    """
    canvas = np.zeros((round(HEIGHT * scale), round(WIDTH * scale)))
    for member in members:
        _paint(canvas, _path(member, scale), inks[member.kind], scale)
    return np.rint(canvas).astype(np.uint8)


@functools.lru_cache(maxsize=32)
def taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The source pixels under every target pixel, int [K, target], and their shares of it, float32 [K, target]."""
    low = np.arange(target) * source / target
    high = np.arange(1, target + 1) * source / target
    first = np.floor(low).astype(int)
    pixels = first + np.arange(int(np.max(np.ceil(high) - first)))[:, None]
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None)
    return np.minimum(pixels, source - 1), (overlap * target / source).astype(np.float32)


def area_average(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [..., H, W] to uint8 [..., height, width] by exact averages over the area of each new pixel.

    Weighted sums in a fixed order, not a matrix product: the same bytes on every machine and from every thread.
    """
    if images.shape[-2:] == (height, width):
        return images
    rows, row_shares = taps(images.shape[-2], height)
    columns, column_shares = taps(images.shape[-1], width)
    squat = np.zeros((*images.shape[:-2], height, images.shape[-1]), np.float32)
    for pixels, shares in zip(rows, row_shares, strict=True):
        squat += images[..., pixels, :] * shares[:, None]
    mean = np.zeros((*images.shape[:-2], height, width), np.float32)
    for pixels, shares in zip(columns, column_shares, strict=True):
        mean += squat[..., pixels] * shares
    return np.clip(np.rint(mean), 0, 255).astype(np.uint8)
