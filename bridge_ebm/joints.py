"""Where finished pictures are joined into one: which of them fit, and where to cut them.

Companions are bridges float [h, w, 1] in [-1, 1], one of each sub-type of a plan: whole pictures or left halves of
pictures `width` pixels wide. Seams are in metres from mid-span, as in `plans.Plan`.
"""

from collections.abc import Sequence

import numpy as np

from bridge_ebm import compose, plans
from bridge_ebm.plans import Plan, Span

ABOUT = 7.0  # metres about the usual place of the piers in which a companion's is looked for
# Sums of squared differences are taken as in pictures of this size: they grow with the area along a seam, and with the
# width in a profile of ink.
MEASURED, MEASURED_WIDTH = 48, 192
NEAR = 0.002  # per square metre: what a seam away from the piers weighs against squared differences of ink
# Width of the seams where finished pictures are joined, in those of `compose.SEAM`: a cut between columns of pixels.
JOINT = 1 / 12
FIT = 2.0  # the same, of the seams along which companions are compared
# What a flaw of a companion, another noise than the design's turn, and a square metre between an upright's place and
# the mean of all weigh against squared differences along seams.
FLAW, TURN, LINE = 1e4, 1e2, 20.0


def fitting(plan: Plan, parts: np.ndarray, flaws: np.ndarray, turn: int) -> np.ndarray:
    """Whose noise each sub-type of a plan takes its companion from, int [K], of companions [NOISES, K, H, W, 1].

    Those with the fewest `flaws` [NOISES, K]; among these the first sub-type's is number `turn`, so that designs of a
    group differ, and the others are those that differ least from their neighbours along the seams, with piers in line.
    """
    count, size = parts.shape[1], parts.shape[2] / MEASURED
    masks = plans.masks(plan, parts.shape[2], parts.shape[3], FIT)
    choices = np.stack(list(np.ndindex(*(len(parts),) * count)))  # [choices, K]
    width = parts.shape[3]
    places = np.array(
        [[_places(one, name, width) for one in parts[:, k]] for k, name in enumerate(plan.subtypes)]
    )  # [K, NOISES, 2]
    chosen = places[np.arange(count), choices].reshape(len(choices), -1)
    cost = FLAW * np.take_along_axis(flaws, choices, axis=0).sum(axis=1) + TURN * (choices[:, 0] != turn)
    cost += LINE * _spread(chosen)
    for k in range(count):
        for m in range(k):
            apart = (masks[k] * masks[m] * (parts[:, None, k] - parts[None, :, m]) ** 2).sum((2, 3, 4))
            cost += apart[choices[:, k], choices[:, m]] / size**2
    return choices[cost.argmin()]


def seams(plan: Plan, parts: np.ndarray, width: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the companions [K, h, w, 1] of a plan part, left and right, above and below the deck."""
    place = pier(parts, plan.subtypes, width)
    mirrored = parts if parts.shape[2] < width else parts[:, :, ::-1]
    left, right = (
        _beside(plan, span, halves[:, :, : width // 2], width, place)
        for span, halves in ((plan.spans[0], parts), (plan.spans[2], mirrored))
    )
    return (left[0], right[0]), (left[1], right[1])


def pier(parts: np.ndarray, names: Sequence[str], width: int) -> float:
    """Metres from mid-span of the piers of the companions [K, h, w, 1] that stand where most do, on average.

    Uprights are best cut along their middle: beside it, stays of the other side leave stumps.
    """
    places = np.array([_places(part, name, width)[1] for name, part in zip(names, parts, strict=True)])
    return plans.PIER if np.isnan(places).all() else float(np.nanmean(places))


def _places(part: np.ndarray, name: str, width: int) -> list[float]:
    """Metres from mid-span of the tower and of the pier of a companion [h, w, 1] of sub-type `name`; NaN where it has
    none there.
    """
    metres = _from_mid_span(part[None], width)
    found = [_upright(part, name, level, width) for level in (0, 1)]
    return [float((ink * metres).sum() / ink.sum()) if ink.any() else np.nan for ink in found]


def _spread(places: np.ndarray) -> np.ndarray:
    """Sum [N] of the squared distances of places [N, P] from their mean, those that are NaN left out."""
    mean = np.nansum(places, axis=1) / np.maximum((~np.isnan(places)).sum(axis=1), 1)
    return np.nansum((places - mean[:, None]) ** 2, axis=1)


def _beside(plan: Plan, side: Span, halves: np.ndarray, width: int, place: float) -> tuple[float, float]:
    """Metres from mid-span where the companions' `halves` [K, h, w, 1] of the span `side` and of the main span part,
    above and below the deck: near `place`, and so that the tower and the pier that are left are those of one of the
    two spans.

    Along the middle of two that do not stand in the same columns, or of one that only one of them has, half of it or
    both would be left, of thin ones shadows.
    """
    spans = side, plan.spans[1]
    ink = [
        [_upright(halves[plan.subtypes.index(span[level])], span[level], level, width) for span in spans]
        for level in (0, 1)
    ]
    found = [
        [_parted(both, both[owner] if both[owner].any() else both[1 - owner], width, place) for both in ink]
        for owner in (0, 1)
    ]
    (above, _), (below, _) = min(found, key=lambda levels: sum(cost for _, cost in levels))
    return above, below


def _parted(ink: list[np.ndarray], wanted: np.ndarray, width: int, place: float) -> tuple[float, float]:
    """Where to part the side span from the main one, whose uprights have `ink` [w] each, to be left with `wanted`: near
    `place`, in metres from mid-span, and what it costs.
    """
    seams = place + np.linspace(-ABOUT, ABOUT, 57)
    # The side span's share of every column.
    shares = np.stack([compose.span_masks(width, (width * (0.5 - seam / plans.METRES),), JOINT)[0] for seam in seams])
    left = ink[1] + shares[:, : width // 2] * (ink[0] - ink[1])
    costs = np.square(left - wanted).sum(axis=1) * (MEASURED_WIDTH / width) + NEAR * (seams - place) ** 2
    return float(seams[costs.argmin()]), float(costs.min())


def _upright(half: np.ndarray, name: str, level: int, width: int) -> np.ndarray:
    """The ink [w] of the tower (level 0) or pier (1) near the usual place that a left half [h, w, 1] of sub-type `name`
    has, 0 where it has none.

    What goes down all the way is upright; arches and legs move on.
    """
    has = name in plans.TOWERED if level == 0 else name not in plans.SHORT_SPAN
    height, metres = half.shape[0], _from_mid_span(half[None], width)
    first, last = ((height // 6, height * 3 // 8), (height * 5 // 8, height * 13 // 16))[level]
    return (half[first:last, :, 0] + 1).min(axis=0) * (np.abs(metres - plans.PIER) < ABOUT) * has


def _from_mid_span(parts: np.ndarray, width: int) -> np.ndarray:
    """How many metres each column of companions [K, h, w, 1] is from mid-span of the picture, [w]."""
    return np.abs(np.arange(width) + 0.5 - width / 2)[: parts.shape[2]] / width * plans.METRES
