"""Whether a picture shows a new type: its skeleton beside the skeletons of real pictures.

Every picture is read on one canvas of 128 x 512, whatever its size (ink.py). Line width does not move a skeleton, so
the paper's 8 sub-types x 75 augmentations at one member width stand for all of its 9600 pictures.

mismatch of two skeletons: 1 - (P + R) / 2, with P and R the share of the pixels of one within 3 pixels of the other.
novel: a mismatch above 0.035 with every reference. Real pictures of other member widths stay below, a picture with one
hanger missing too; a sub-type that the reference lacks does not.
"""

import functools
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bridge_ebm import bridges, ink, raster, recipes
from bridge_ebm.definition import checked

NOVEL = 0.035
ONE, PAIR = 0.95, 0.90  # shares of a skeleton that one sub-type, or two, must explain
REACH = 3  # canvas pixels
_WIDTH_INDEX = 8  # of the reference skeletons
_MOST_PER_TYPE = 75
_AT_ONCE = 256  # pictures
Array = np.ndarray


class Reference(NamedTuple):
    """Skeletons of real pictures.

    `labels` int [R], positions in `subtypes`; `lines` the skeletons [R, pixels], `near` uint8 [pixels, R] what lies
    within 3 pixels of them, `counts` [R] their lengths in pixels.
    """

    subtypes: tuple[str, ...]
    labels: Array
    lines: sparse.csr_array
    near: Array
    counts: Array


class Novelty(NamedTuple):
    """What the reference says about one picture.

    `mismatch` 0 (a known bridge) to 1, `novel` whether it is above 0.035, `nearest` the sub-type that matches best.
    `one` is the sub-type that explains most of the skeleton and `one_share` how much (E1); `pair` the two that together
    explain most, `pair_share` how much (E2), and `shares` what each of the two explains. `kind`: "known", "variant"
    (novel, but E1 >= 0.95: parts of one sub-type), "combination" (E1 < 0.95, E2 >= 0.90), "new shape", or "blank": no
    line at all, which is nothing new and near to nothing (`nearest` None).
    """

    mismatch: float
    novel: bool
    nearest: str | None
    one: str
    one_share: float
    pair: tuple[str, str]
    pair_share: float
    shares: tuple[float, float]
    kind: str


def reference(images: Array, labels: Array, subtypes: tuple[str, ...]) -> Reference:
    """The skeletons of real pictures uint8 [N, H, W], evenly picked: at most 75 a sub-type. About 5 ms each."""
    chosen = []
    for label in range(len(subtypes)):
        mine = np.flatnonzero(labels == label)
        count = min(len(mine), _MOST_PER_TYPE)
        chosen.append(mine[np.arange(count) * len(mine) // max(count, 1)])
    picked = np.concatenate(chosen)
    lines = skeletons(images[picked])
    near = np.ascontiguousarray(_widened(lines).T)
    return Reference(subtypes, np.asarray(labels)[picked], lines, near, np.asarray(lines.sum(axis=1)))


@functools.lru_cache(maxsize=2)
def paper_reference(height: int, width: int) -> Reference:
    """The paper's 8 x 75 augmentations of one member width, drawn at this size; about 5 s, once."""
    scale = bridges.drawn_scale(height, width)
    full = (round(raster.HEIGHT * scale), round(raster.WIDTH * scale))
    plan = [variant for variant in recipes.paper_plan(recipes.PER_TYPE) if variant.base == _WIDTH_INDEX]
    pictures = [recipes.augmented(bridges.render(subtype, _WIDTH_INDEX, *full), plan) for subtype in bridges.SUBTYPES]
    labels = np.repeat(np.arange(len(bridges.SUBTYPES)), len(plan))
    return reference(raster.area_average(np.concatenate(pictures), height, width), labels, bridges.SUBTYPES)


def skeletons(images: Array) -> sparse.csr_array:
    """The skeletons of pictures uint8 [N, H, W] on the canvas, float32 [N, 128 x 512] of ones."""
    rows = []
    for image in checked(images):
        mask = ink.find_ink(*ink.canvas(image)).mask
        rows.append(np.flatnonzero(ink.find_skeleton(mask)) if mask.any() else np.zeros(0, int))
    starts = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate(rows)
    shape = (len(images), ink.HEIGHT * ink.WIDTH)
    return sparse.csr_array((np.ones(len(flat), np.float32), flat, starts), shape=shape)


def _widened(lines: sparse.csr_array) -> Array:
    """What lies within 3 pixels of each skeleton, uint8 [N, pixels]."""
    y, x = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    disc = (y**2 + x**2 <= REACH**2).nonzero()
    near = np.zeros((lines.shape[0], ink.HEIGHT + 2 * REACH, ink.WIDTH + 2 * REACH), np.uint8)
    for k in range(len(near)):
        row, column = np.divmod(lines.indices[lines.indptr[k] : lines.indptr[k + 1]], ink.WIDTH)
        for down, right in zip(*disc, strict=True):
            near[k, row + down, column + right] = 1
    return near[:, REACH:-REACH, REACH:-REACH].reshape(len(near), -1)


def _share(lines: sparse.csr_array, near: Array, counts: Array) -> Array:
    """Share of each skeleton [A, pixels] that lies near each other one, `near` float32 [pixels, B]: [A, B]; 0 for an
    empty skeleton.
    """
    return np.asarray(lines @ near) / np.maximum(counts, 1)[:, None]


def mismatch(images: Array, real: Reference) -> Array:
    """Mismatch of every picture, uint8 [N, H, W], with every reference: float [N, R] in [0, 1]."""
    return _mismatch(skeletons(images), real)


def _mismatch(lines: sparse.csr_array, real: Reference) -> Array:
    found = np.empty((lines.shape[0], len(real.labels)))
    for part in _parts(lines.shape[0]):
        mine = lines[part]
        here = np.asarray(mine.sum(axis=1))
        onto = np.asarray([real.near[row].sum(axis=0, dtype=np.int32) for row in _pixels(mine)])
        back = _share(real.lines, _widened(mine).T.astype(np.float32), real.counts).T
        found[part] = 1 - (onto / np.maximum(here, 1)[:, None] + back) / 2
    return found


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE))


def _pixels(lines: sparse.csr_array) -> list[Array]:
    return np.split(lines.indices, lines.indptr[1:-1])


def novelty(images: Array, real: Reference) -> list[Novelty]:
    """What the reference says about every picture, uint8 [N, H, W]; about 20 ms each against 600.

    Look at its definition first: a blurred harp loses its stays and looks novel.
    """
    lines = skeletons(images)
    distances = _mismatch(lines, real)
    return [_judged(row, pixels, real) for row, pixels in zip(distances, _pixels(lines), strict=True)]


def _judged(distances: Array, pixels: Array, real: Reference) -> Novelty:
    best = int(distances.argmin())
    alone, together = _explained(pixels, real)
    one = int(alone.argmax())
    pairs = list(combinations(range(len(alone)), 2)) or [(0, 0)]
    a, b = max(pairs, key=lambda pair: together[pair][0])
    both, share_a, share_b = together[a, b]
    blank = len(pixels) == 0
    novel = bool(distances[best] > NOVEL) and not blank
    if novel:
        kind = "variant" if alone[one] >= ONE else "combination" if both >= PAIR else "new shape"
    else:
        kind = "blank" if blank else "known"
    name = real.subtypes
    return Novelty(
        mismatch=float(distances[best]),
        novel=novel,
        nearest=None if blank else name[real.labels[best]],
        one=name[one],
        one_share=float(alone[one]),
        pair=(name[a], name[b]),
        pair_share=float(both),
        shares=(float(share_a), float(share_b)),
        kind=kind,
    )


def _explained(pixels: Array, real: Reference) -> tuple[Array, Array]:
    """Share of a skeleton near the best reference of each sub-type [T], and near that of either of each two sub-types
    [T, T, 3]: (both together, the first, the second).

    Exact over all pairs of references: with M [n, R] saying which pixel lies near which reference, M^T M counts what
    two of them share.
    """
    kinds, total = len(real.subtypes), max(len(pixels), 1)
    near = real.near[pixels].astype(np.float32)
    common = near.T @ near
    single = np.diag(common)
    union = single[:, None] + single[None, :] - common
    alone, together = np.zeros(kinds), np.zeros((kinds, kinds, 3))
    groups = [np.flatnonzero(real.labels == kind) for kind in range(kinds)]
    for a, mine in enumerate(groups):
        alone[a] = single[mine].max(initial=0)
        for b, others in enumerate(groups):
            block = union[np.ix_(mine, others)]
            if block.size:
                i, j = np.unravel_index(block.argmax(), block.shape)
                together[a, b] = block[i, j], single[mine[i]], single[others[j]]
    return alone / total, together / total


def pairwise_mismatch(images: Array) -> Array:
    """Mismatch of every two pictures uint8 [N, H, W]: float32 [N, N], symmetric; 0 for two pictures without lines.

    About 5 ms a picture and 2 s for the million pairs of 1000.
    """
    lines = skeletons(images)
    counts = np.asarray(lines.sum(axis=1))
    onto = np.empty((len(images), len(images)), np.float32)
    for part in _parts(len(images)):
        onto[:, part] = _share(lines, _widened(lines[part]).T.astype(np.float32), counts)
    empty = counts == 0
    onto[np.ix_(empty, empty)] = 1
    return 1 - (onto + onto.T) / 2


def distinct(images: Array, threshold: float = NOVEL) -> Array:
    """Positions of pictures, uint8 [N, H, W], that differ from each other: int [K], increasing.

    Greedy in the order given, so put the best first: a picture is kept when its mismatch with every picture kept
    before is above `threshold`.
    """
    distances = pairwise_mismatch(images)
    kept: list[int] = []
    for k in range(len(distances)):
        if not kept or distances[k, kept].min() > threshold:
            kept.append(k)
    return np.array(kept)
