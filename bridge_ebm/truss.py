"""Trusses: a chord, level or nearly so, with a web of braces between it and the deck or another chord.

In a truss every member may pull and press, so none of them is a stay or a hanger. What shows a truss is its web: many
short lines that end on the chord, most of them slanting. A cable with slanting hangers has such a web too, but sags.
"""

from collections.abc import Sequence

import numpy as np

from bridge_ebm.attach import SHORTEST, Held, Line
from bridge_ebm.member import Member
from bridge_ebm.skeleton import NOTHING, UPRIGHT, length

_HOLE = 1.7  # times the usual distance between diagonals: more and one is missing
_APART = 4.0  # pixels: diagonals that cross count once
_LONGEST_BRACE = 75.0  # pixels
_LEVEL = 50.0  # degrees off the vertical from which a line may be a chord
_TO_A_TOWER = 80.0  # degrees off the vertical: a steeper line over the deck that ends on a tower is a cable
_CHORD = 40.0  # pixels: shorter lines are no chords
_REACH = 8.0  # pixels between the end of a brace and the axis of its chord
_FEWEST, _SLANTING, _SLANT = 4, 0.4, 12.0  # braces on a chord; share that slants; by how many degrees
_UPRIGHT = 0.35  # sideways share of its length: less is a post

Array = np.ndarray


def find_trusses(lines: list[Line]) -> dict[int, str]:
    """Numbers of the lines that are the "chord" or a "brace" of a truss."""
    found: dict[int, str] = {}
    for above in (True, False):
        side = [k for k, line in enumerate(lines) if line.above == above]
        if any(_sags(lines[k]) for k in side):
            continue
        level = [k for k in side if _may_be_chord(lines[k])]
        braces = [k for k in side if SHORTEST <= lines[k].chord <= _LONGEST_BRACE and k not in level]
        webs = {c: [k for k in braces if _ends_on(lines[k], lines[c])] for c in level}
        chords = [c for c in level if _is_web([lines[k] for k in webs[c]])]
        chords += [k for k in side if k not in chords and _goes_on(lines[k], [lines[c] for c in chords])]
        for c in chords:
            webs.setdefault(c, [k for k in braces if k not in chords and _ends_on(lines[k], lines[c])])
            found |= {k: "brace" for k in webs[c] if _held(lines[k], [lines[o] for o in chords])}
        found |= dict.fromkeys(chords, "chord")
    return found


def _sags(line: Line) -> bool:
    return line.fair and line.chord > 60 and line.lean > 30 and line.bow < -2 * line.limit and line.above


def _may_be_chord(line: Line) -> bool:
    curved = line.fair and abs(line.bow) > 2 * line.limit
    cable = line.above and line.lean < _TO_A_TOWER and max(line.stroke.on) >= UPRIGHT
    return line.lean >= _LEVEL and line.chord >= _CHORD and not curved and not cable


def _goes_on(piece: Line, chords: list[Line]) -> bool:
    """Whether a short level line carries one of the chords on beyond its end."""
    tips = [c.stroke.points[e] for c in chords for e in (0, -1)]
    ends = [piece.stroke.points[e] for e in (0, -1)]
    near = any(float(np.hypot(*(tip - end))) <= _REACH for tip in tips for end in ends)
    return near and piece.lean >= _LEVEL + 20 and SHORTEST <= piece.chord < _CHORD


def _ends_on(brace: Line, chord: Line) -> bool:
    """Whether an end of `brace` lies on `chord`."""
    axis = chord.stroke.points
    return any(float(np.hypot(*(axis - brace.stroke.points[e]).T).min()) <= _REACH for e in (0, -1))


def _is_web(braces: list[Line]) -> bool:
    slanting = sum(line.lean >= _SLANT for line in braces)
    return len(braces) >= _FEWEST and slanting >= _SLANTING * len(braces)


def _held(brace: Line, chords: list[Line]) -> bool:
    """Whether something holds both ends of a brace: the deck, an upright or a chord."""
    for e in (0, -1):
        if brace.stroke.on[e] == NOTHING:
            far = [float(np.hypot(*(c.stroke.points - brace.stroke.points[e]).T).min()) for c in chords]
            if min(far) > _REACH:
                return False
    return True


def missing_webs(members: Sequence[Member]) -> list[tuple[float, float]]:
    """Where trusses lack a diagonal: the middle of the hole along the picture, and its length, in pixels."""
    holes = []
    for k, chord in enumerate(members):
        web = [m for m in members if m.kind == "brace" and k in m.ends]
        middles = np.sort([m.at[:, 0].mean() for m in web if np.ptp(m.at[:, 0]) > _UPRIGHT * length(m.at)])
        if chord.kind == "chord" and len(middles) > _FEWEST:
            middles = middles[np.append(True, np.diff(middles) > _APART)]
            steps = np.diff(middles)
            usual = np.percentile(steps, 75) if len(steps) >= _FEWEST else np.inf
            wide = np.flatnonzero(steps > _HOLE * usual)
            holes += [(float(middles[i : i + 2].mean()), float(steps[i])) for i in wide]
    return holes


def on_chord(end: Array, chords: list[int], axes: list[Array]) -> Held | None:
    """The chord of a truss that holds the end of a brace, if one is there."""
    best: tuple[float, Held] | None = None
    for k in chords:
        away = np.hypot(*(axes[k] - end).T)
        if away.min() <= _REACH and (best is None or away.min() < best[0]):
            best = float(away.min()), Held(k, axes[k][away.argmin()], False)
    return best[1] if best else None
