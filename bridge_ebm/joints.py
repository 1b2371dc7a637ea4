"""Where finished pictures are joined into one: which of them fit, and where to cut them.

Companions are bridges float [h, w, 1] in [-1, 1], one of each sub-type of a plan: whole pictures or left halves of
pictures `width` pixels wide. Seams are in metres from mid-span, as in `plans.Plan`.
"""

from collections.abc import Sequence

import numpy as np

from bridge_ebm import compose, plans
from bridge_ebm.plans import Plan

ABOUT = 7.0  # metres about the usual place of the piers in which a companion's is looked for
NEAR = 0.002  # per square metre: what a seam away from the piers weighs against squared differences of a tower's ink
JOINT = 1 / 3  # width of the seams where finished pictures are joined, in those of `compose.SEAM`
FIT = 2.0  # the same, of those along which companions are compared
# What a flaw of a companion, and another noise than the design's turn, weigh against squared differences along seams.
FLAW, TURN = 1e4, 1e2


def fitting(plan: Plan, parts: np.ndarray, flaws: np.ndarray, turn: int) -> np.ndarray:
    """Whose noise each sub-type of a plan takes its companion from, int [K], of companions [NOISES, K, H, W, 1].

    Those with the fewest `flaws` [NOISES, K]; among these the first sub-type's is number `turn`, so that designs of a
    group differ, and the others are those that differ least from their neighbours along the seams.
    """
    count = parts.shape[1]
    masks = plans.masks(plan, parts.shape[2], parts.shape[3], FIT)
    choices = np.stack(list(np.ndindex(*(len(parts),) * count)))  # [choices, K]
    cost = FLAW * np.take_along_axis(flaws, choices, axis=0).sum(axis=1) + TURN * (choices[:, 0] != turn)
    for k in range(count):
        for m in range(k):
            apart = (masks[k] * masks[m] * (parts[:, None, k] - parts[None, :, m]) ** 2).sum((2, 3, 4))
            cost += apart[choices[:, k], choices[:, m]]
    return choices[cost.argmin()]


def seams(plan: Plan, parts: np.ndarray, width: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the companions [K, h, w, 1] of a plan part, left and right, above and below the deck."""
    place = pier(parts, plan.subtypes, width)
    mirrored = parts if parts.shape[2] < width else parts[:, :, ::-1]
    left = _about_towers(plan, plan.spans[0].above, parts[:, :, : width // 2], width, place)
    right = _about_towers(plan, plan.spans[2].above, mirrored[:, :, : width // 2], width, place)
    return (left, right), (place, place)


def pier(parts: np.ndarray, names: Sequence[str], width: int) -> float:
    """Metres from mid-span of the piers of the companions [K, h, w, 1] that stand where most do, on average.

    Towers must be cut along their middle: beside it, stays of the other side would leave stumps.
    """
    height, metres = parts.shape[1], _from_mid_span(parts, width)
    found = []
    for name, part in zip(names, parts, strict=True):
        # What goes down all the way is a pier; arches and legs move on.
        ink = _upright_ink(part, height * 5 // 8, height * 13 // 16, metres)
        if name not in plans.SHORT_SPAN and ink.max() > 0:
            found.append(float((ink * metres).sum() / ink.sum()))
    return float(np.mean(found)) if found else plans.PIER


def _about_towers(plan: Plan, side: str, halves: np.ndarray, width: int, place: float) -> float:
    """Metres from mid-span where the companions' `halves` [K, h, w, 1] of sub-type `side` and of the main span part
    above the deck: near `place`, where the tower that is left is most like that of one of them.

    Along the middle of two that do not stand in the same columns, or of one that only one of them has, half a tower or
    two would be left, of thin ones shadows.
    """
    main = plan.spans[1].above
    ink = [_tower_ink(halves[plan.subtypes.index(name)], name, width) for name in (side, main)]
    wanted = [one for one in ink if one.any()]
    if not wanted:
        return place
    offsets = np.linspace(-ABOUT, ABOUT, 57)  # metres
    costs = []
    for offset in offsets:
        share = compose.span_masks(width, (width * (0.5 - (place + offset) / plans.METRES),), JOINT)[0, : width // 2]
        left = share * ink[0] + (1 - share) * ink[1]
        costs.append(min(np.square(left - one).sum() for one in wanted) + NEAR * offset**2)
    return place + float(offsets[np.argmin(costs)])


def _tower_ink(half: np.ndarray, name: str, width: int) -> np.ndarray:
    """The ink [w] of the tower in the left half [h, w, 1] of a companion of sub-type `name`; 0 where it has none."""
    height, metres = half.shape[0], _from_mid_span(half[None], width)
    return _upright_ink(half, height // 6, height * 3 // 8, metres) * (name in plans.TOWERED)


def _from_mid_span(parts: np.ndarray, width: int) -> np.ndarray:
    """How many metres each column of companions [K, h, w, 1] is from mid-span of the picture, [w]."""
    return np.abs(np.arange(width) + 0.5 - width / 2)[: parts.shape[2]] / width * plans.METRES


def _upright_ink(part: np.ndarray, first: int, last: int, metres: np.ndarray) -> np.ndarray:
    """The ink [w] about the piers that a companion [h, w, 1] has in all rows from `first` to `last`."""
    return (part[first:last, :, 0] + 1).min(axis=0) * (np.abs(metres - plans.PIER) < ABOUT)
