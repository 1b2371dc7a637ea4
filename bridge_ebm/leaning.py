"""Towers whose legs lean: straight from a foot on the ground through the deck and on, found by looking along them."""

import numpy as np

from bridge_ebm.ink import HEIGHT, WIDTH, Deck, Upright, find_uprights, groups

_SLOPES = np.linspace(-0.45, 0.45, 91)  # pixels to the right for every pixel down
_STEEPEST = 0.05  # slope up to which a leg counts as upright
_HIGH = 20  # pixels that a tower reaches over the deck
_LEG_ABOVE = 4.0  # pixels over the lowest ink where feet are looked for
_WIDEST = 24  # pixels, of a foot

Array = np.ndarray


def find_bars(mask: Array, deck: Deck) -> list[Upright]:
    """All piers and towers, upright or leaning."""
    leaning = find_leaning(mask, deck)
    return [bar for bar in find_uprights(mask, deck) if not _beside(bar, leaning)] + leaning


def find_leaning(mask: Array, deck: Deck) -> list[Upright]:
    """Pairs of a leaning pier and the tower that carries it on above the deck, pier first."""
    inked = np.flatnonzero(mask.any(1))
    row = int(inked[-1] - _LEG_ABOVE) if len(inked) else 0
    found: list[Upright] = []
    for a, b in zip(*groups(mask[row]), strict=True):
        x = (a + b - 1) / 2
        if b - a <= _WIDEST and row > deck.at(x) + _HIGH:
            found += _leg(mask, deck, x, row)
    return found


def _leg(mask: Array, deck: Deck, foot: float, row: int) -> list[Upright]:
    """The leg that stands with its middle at column `foot` of `row`, if it leans and rises over the deck."""
    up = np.arange(row)  # rows above the foot
    x = np.clip(np.rint(foot - _SLOPES[:, None] * up).astype(int), 0, WIDTH - 1)
    blank = ~mask[row - up, x]
    gap = blank[:, :-2] & blank[:, 1:-1] & blank[:, 2:]
    reach = np.where(gap.any(1), gap.argmax(1), len(up))
    good = np.flatnonzero(reach >= 0.97 * reach.max())
    slope, top = float(_SLOPES[good].mean()), row - float(np.median(reach[good])) + 1
    level = deck.at(foot)
    level = deck.at(foot - slope * (row - level))
    if abs(slope) <= _STEEPEST or top > level - _HIGH:
        return []
    half = _half_width(mask, foot, slope, row, level + deck.half + 3)
    at = foot - slope * (row - level)
    bottom = row + _LEG_ABOVE
    pier = Upright(foot + slope * _LEG_ABOVE, half, level, bottom, False, slope)
    return [pier, Upright(at, half, top, level, True, slope)]


def _half_width(mask: Array, foot: float, slope: float, row: int, upto: float) -> float:
    """Half the width of a leg across a row, the median of those below the deck."""
    widths = []
    for y in range(int(upto), row):
        x = round(foot - slope * (row - y))
        line = mask[y, max(x - 12, 0) : x + 13]
        starts, ends = groups(line)
        widths += [e - s for s, e in zip(starts, ends, strict=True) if s <= min(x, 12) < e]
    return float(np.median(widths)) / 2 if widths else 1.0


def _beside(bar: Upright, leaning: list[Upright]) -> bool:
    """Whether an upright bar is but a part of a leaning one."""
    y = np.clip((bar.top + bar.bottom) / 2, 0, HEIGHT - 1)
    return any(
        abs(leg.at(y) - bar.x) <= leg.half + bar.half + 3
        for leg in leaning
        if leg.tower == bar.tower and leg.top - 4 <= y <= leg.bottom + 4
    )
