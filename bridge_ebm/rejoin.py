"""Strokes that the pixel graph broke up are made one again where the ink goes on."""

import numpy as np

from bridge_ebm.ink import grown
from bridge_ebm.skeleton import DECK, UPRIGHT, Stroke

_JOINS, _REJOIN = 12, 45.0  # how many strokes are rejoined at most, and over how many pixels
_SUNK, _LEVEL = 80.0, 0.26  # the same for two that end on the deck, no steeper than 15 degrees: stays are steeper

Array = np.ndarray


def rejoined(strokes: list[Stroke], mask: Array) -> list[Stroke]:
    """Make one stroke of two that go on in each other's direction with ink all the way between them.

    A cable or arch that all but touches the deck, or a crowded joint, is broken up in the graph; the ink is not.
    """
    strokes, mask = list(strokes), grown(mask)
    for _ in range(_JOINS):
        ends = [(k, e) for k, s in enumerate(strokes) if len(s.points) > 18 for e in (0, -1) if s.on[e] < UPRIGHT]
        if len(ends) < 2 or len(ends) > 120:
            break
        tips = np.array([strokes[k].points[-6 if e else 5] for k, e in ends])
        ways = np.array([_tip_way(strokes[k].points if e else strokes[k].points[::-1]) for k, e in ends])
        off = tips[None] - tips[:, None]
        far = np.hypot(off[..., 0], off[..., 1])
        ahead = np.einsum("ijk,ik->ij", off, ways) / np.maximum(far, 1e-9)
        level = np.array([strokes[k].on[e] == DECK for k, e in ends]) & (np.abs(ways[:, 1]) < _LEVEL)
        reach = np.where(level[:, None] & level, _SUNK, _REJOIN)
        facing = (ways @ ways.T < -0.9) & (far < reach) & ((ahead > 0.93) & (ahead.T > 0.93) | (far < 5))
        facing &= np.array([k for k, _ in ends])[:, None] != np.array([k for k, _ in ends])
        pair = _inked_pair(np.where(facing, far, np.inf), tips, mask)
        if pair is None:
            break
        (a, i), (b, j) = ends[pair[0]], ends[pair[1]]
        strokes[a] = _one(strokes[a], i, strokes[b], j)
        del strokes[b]
    return strokes


def _tip_way(points: Array) -> Array:
    """Unit vector in which a stroke runs out of its last point, its displaced tip left out."""
    away = points[-6] - points[-min(24, len(points))]
    return away / max(float(np.hypot(*away)), 1e-9)


def _inked_pair(far: Array, tips: Array, mask: Array) -> tuple[int, int] | None:
    """The two nearest tips with ink along the straight way between them."""
    for flat in np.argsort(far, axis=None)[:12]:
        i, j = np.unravel_index(flat, far.shape)
        if not np.isfinite(far[i, j]):
            return None
        x, y = np.rint(np.linspace(tips[i], tips[j], int(far[i, j]) + 2)).astype(int).T
        if mask[y, x].mean() > 0.9:
            return int(i), int(j)
    return None


def _one(a: Stroke, i: int, b: Stroke, j: int) -> Stroke:
    """Stroke `a` from its far end to its end `i`, carried on by `b` from its end `j`."""
    first = a.points if i else a.points[::-1]
    last = b.points if j == 0 else b.points[::-1]
    touched = [s.points[e] for s, e in ((a, i), (b, j)) if s.on[e] == DECK]
    return Stroke(
        np.vstack([first[:-5], last[5:]]),
        max(a.thickness, b.thickness),
        (a.on[-1 - i], b.on[-1 - j]),
        np.vstack([a.crossed, b.crossed, a.points[i : i + 1 or None]]),
        np.vstack([a.grazed, b.grazed, *(t[None] for t in touched)]),
    )
