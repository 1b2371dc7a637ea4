"""Strokes to members: which line is a tower, an arch, a cable, a hanger, and what holds its two ends.

The drawing decides, by what a bridge engineer looks at. Above the deck an upright over a pier is a tower; a line that
bows up is an arch and presses; one that sags, or from which others hang, is a cable and pulls; a straight line
between two of these or the deck is a stay or hanger and pulls. Below the deck every line may press: piers and legs
reach the ground, arches bow up, columns stand between an arch and the deck. Thickness only raises or lowers the
confidence: at small sizes decks, arches and cables are equally thick.
"""

from typing import NamedTuple

import numpy as np

from scipy import ndimage

from bridge_ebm.skeleton import DECK, DEEP, HEIGHT, NOTHING, UPRIGHT, WIDTH, Deck, Ink, Stroke, Upright

Array = np.ndarray

PULL_ONLY = ("cable", "stay", "hanger")
_UPRIGHT = 5.0  # degrees off the vertical
_BOW = (1.6, 0.018)  # pixels, and share of the chord: less is a straight line
_GROUND = 14  # pixels above the lowest foot that still are ground
_SHORTEST = 5.0  # pixels: shorter lines are blemishes of the skeleton
_FAR = 90  # pixels that a line is followed along its own ink
_JUMP = 14  # pixels without ink that are bridged, as a repair
_TIED = 3.5  # pixels
_BLANK = 3  # pixels without ink that are no gap yet


class Member(NamedTuple):
    """A recognised member: `kind`, how sure that is (0.5 to 1), its axis [K, 2] in pixels, and its two ends.

    `ends` say what holds each end: "deck", "ground", "free" or the number of another member; `at` [2, 2] where.
    `thickness` in pixels; `gaps` is the number of blank stretches that were bridged to reach its ends; `bow` the
    rise over its chord in pixels (sag: negative).
    """

    kind: str
    confidence: float
    points: Array
    thickness: float
    bow: float
    ends: tuple[str | int, str | int]
    at: Array
    gaps: int


class _Line(NamedTuple):
    stroke: Stroke
    above: bool
    chord: float
    lean: float  # degrees off the vertical
    bow: float
    limit: float  # bow from which the line counts as curved
    fair: bool  # whether a smooth bow describes it


def length(points: Array) -> float:
    """Length of a polyline [K, 2]."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def _measure(stroke: Stroke, deck: Deck) -> _Line:
    p = stroke.points
    along = p[-1] - p[0]
    chord = max(float(np.hypot(*along)), 1.0)
    x, y = p.mean(0)
    t = (p - p[0]) @ along / chord**2
    across = ((p - p[0]) @ np.array([along[1], -along[0]])) / chord * (1 if along[0] >= 0 else -1)
    inner = (t > 0.04) & (t < 0.96)
    shape = np.stack([4 * t * (1 - t), np.ones_like(t), t - 0.5], 1)[inner]
    bow, fair = 0.0, True
    if inner.sum() > 8:
        fit = np.linalg.lstsq(shape, across[inner], rcond=None)[0]
        bow = float(fit[0])
        fair = float(np.percentile(np.abs(across[inner] - shape @ fit), 90)) < 1.2 + 0.08 * abs(bow)
    lean = float(np.degrees(np.arctan2(abs(along[0]), abs(along[1]))))
    return _Line(stroke, y < deck.at(x), chord, lean, bow, max(_BOW[0], _BOW[1] * chord), fair)


def _is_deck(line: _Line, deck: Deck) -> bool:
    """Whether a line is but the ragged edge of the deck, or a dot."""
    x, y = line.stroke.points.T
    level = np.abs(y - deck.row - deck.slope * x).max() < deck.half + 3.5 and line.lean > 60
    return level or (line.chord < 3 and length(line.stroke.points) <= 12)


def _surely(margin: float) -> float:
    """Confidence 0.5 (as likely as not) to 1 from a margin in units of its own threshold."""
    return round(float(0.5 + 0.5 * np.tanh(max(margin, 0.0))), 2)


def _is_foot(line: _Line, end: int, deck: Deck, ground: float, mask: Array) -> bool:
    """Whether a line stands on the ground there: low enough, and no ink below it."""
    x, y = line.stroke.points[end]
    low = y + line.stroke.thickness / 2
    if line.above or line.stroke.on[end] != NOTHING or low < deck.at(x) + DEEP or low < ground - _GROUND:
        return False
    under = mask[min(int(low) + 4, HEIGHT) :, max(int(x) - 12, 0) : int(x) + 13]
    return not under.any()


def _kind(line: _Line, others: list[_Line], deck: Deck, ground: float, mask: Array) -> tuple[str, float]:
    """Kind and confidence of a line; "" for a secondary member, which is named once its ends are known."""
    curved = abs(line.bow) / line.limit
    if not line.above:
        if _is_foot(line, 0, deck, ground, mask) or _is_foot(line, -1, deck, ground, mask):
            if line.lean <= 12:
                return "pier", _surely(2 - line.lean / 12)
            if line.bow > line.limit:
                return "arch", _surely(curved / 2)
            return ("leg", _surely(1.5)) if line.bow > -2 * line.limit else ("strut", 0.6)
        if line.chord > 25 and curved > 1 and line.lean > 15:
            return ("arch", _surely(curved / 2)) if line.bow > 0 else ("cable", _surely(curved / 2 - 0.3))
        return ("strut", 0.6) if _bears(line, others) or line.lean > 25 else ("", 0.0)
    if line.lean <= _UPRIGHT and DECK in line.stroke.on and _hung_on(line, others):
        return "tower", _surely(0.4)
    borne = _bears(line, others)
    if line.chord > 20 and curved > 1 and line.lean > 30 and (borne or (line.chord > 60 and line.fair)):
        return ("arch" if line.bow > 0 else "cable"), _surely(curved / 2)
    if line.chord > 20 and line.lean > 30 and borne:
        return ("arch" if line.bow > 0.6 * line.limit else "cable"), _surely(0.3)
    return "", 0.0


def _hung_on(upright: _Line, others: list[_Line]) -> bool:
    """Whether lines end on the upper half of an upright from both sides, as on a tower."""
    p = upright.stroke.points
    x, top = float(p[:, 0].mean()), float(p[:, 1].min())
    reach = 4 + upright.stroke.thickness / 2
    sides = set()
    for o in others:
        q = o.stroke.points
        if o is upright or not o.above or o.lean < 15:
            continue
        for end, inner in ((q[0], q[len(q) // 2]), (q[-1], q[len(q) // 2])):
            if abs(end[0] - x) < reach and top - 4 < end[1] < top + 0.5 * upright.chord:
                sides.add(bool(inner[0] > x))
    return len(sides) == 2


def _bears(line: _Line, others: list[_Line]) -> int:
    """How many uprights or other steep lines end on the line between its ends."""
    count = 0
    points = line.stroke.points
    for joint in line.stroke.crossed:
        near = int(np.hypot(*(points - joint).T).argmin())
        a, b = points[max(near - 9, 0)], points[min(near + 9, len(points) - 1)]
        way = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
        for o in others:
            if o is line or o.lean >= 35 or o.chord < _SHORTEST:
                continue
            for tip, root in ((o.stroke.points[0], o.stroke.points[-1]), (o.stroke.points[-1], o.stroke.points[0])):
                if np.hypot(*(tip - joint)) < 2 and abs((root - tip) / o.chord @ way) < 0.8:
                    count += 1
    return count


class _Map(NamedTuple):
    """Which member is drawn where: number of the member and of its point, -1 where none is."""

    member: Array
    point: Array


def _mapped(axes: list[Array], widths: list[float]) -> _Map:
    """Enter the members in a map: every pixel belongs to the nearest axis, if that is near enough."""
    if not axes:
        return _Map(np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), -1))
    member, point = np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), -1)
    for k, axis in enumerate(axes):
        x, y = np.clip(np.rint(axis).astype(int), 0, [WIDTH - 1, HEIGHT - 1]).T
        member[y, x], point[y, x] = k, np.arange(len(axis))
    far, (rows, columns) = ndimage.distance_transform_edt(member < 0, return_indices=True)
    member, point = member[rows, columns], point[rows, columns]
    near = far <= np.maximum(1.5, np.array(widths) / 2)[member]
    return _Map(np.where(near, member, -1), np.where(near, point, -1))


def _dense(points: Array) -> Array:
    """A polyline with a point every pixel."""
    step = np.hypot(*np.diff(points, axis=0).T)
    at = np.concatenate([[0], np.cumsum(step)])
    to = np.linspace(0, at[-1], max(int(at[-1]) + 1, 2))
    return np.stack([np.interp(to, at, points[:, 0]), np.interp(to, at, points[:, 1])], 1)


def _smooth(line: _Line) -> Array:
    """The axis of a curved line: a quartic over its chord, where that follows the pixels."""
    p = line.stroke.points
    along = (p[-1] - p[0]) / line.chord
    side = np.array([along[1], -along[0]])
    t, across = (p - p[0]) @ along / line.chord * 2 - 1, (p - p[0]) @ side
    if len(p) < 20 or np.abs(t).max() > 1.3:
        return _dense(p)
    weight = np.where(np.abs(t) > 0.95, 0.2, 1.0)  # the skeleton bends where members meet
    fit = np.polynomial.polynomial.polyfit(t, across, 4, w=weight)
    off = across - np.polynomial.polynomial.polyval(t, fit)
    if np.percentile(np.abs(off), 90) > 1.5:
        return _dense(p)
    even = np.linspace(-1, 1, max(int(line.chord), 2))
    height = np.polynomial.polynomial.polyval(even, fit)
    return p[0] + np.outer((even + 1) / 2 * line.chord, along) + np.outer(height, side)


def _straight(points: Array, firm: int = 0) -> tuple[Array, Array]:
    """The straight line that most of the points lie on: its two ends [2, 2] and unit direction.

    Where no line fits, the half of the points at the end that is better known counts: `firm` 1 the first, -1 the last.
    """
    for part in (points, points[: len(points) // 2] if firm > 0 else points[len(points) // 2 :]):
        ends, way, off = _fitted(part)
        if firm == 0 or off < 1.2 or len(points) < 24:
            break
    return ends, way


def _fitted(points: Array) -> tuple[Array, Array, float]:
    """Robust straight line: ends, direction, and the distance that 85% of the points are within."""
    trust = np.ones(len(points))
    if len(points) > 14:
        trust[:4] = trust[-4:] = 0.1  # junctions displace the skeleton
    weight = trust
    for _ in range(4):
        centre = weight @ points / weight.sum()
        off = points - centre
        xx, xy, yy = np.einsum("k,ki,kj->ij", weight, off, off)[[0, 0, 1], [0, 1, 1]]
        angle = 0.5 * np.arctan2(2 * xy, xx - yy)
        way = np.array([np.cos(angle), np.sin(angle)])
        away = np.abs(off @ [way[1], -way[0]])
        weight = trust / (1 + away**2)
    if way @ (points[-1] - points[0]) < 0:
        way = -way
    t = off @ way
    return np.stack([centre + t[0] * way, centre + t[-1] * way]), way, float(np.percentile(away, 85))


class _Held(NamedTuple):
    by: str | int
    at: Array
    gap: bool


def _follow(end: Array, way: Array, where: _Map, axes: list[Array], faint: Array, deck: Deck) -> _Held:
    """Follow a line beyond its end, along its ink or a short way without, until a member or the deck holds it."""
    path = end + np.arange(-3, _FAR)[:, None] * way
    x, y = np.rint(path).astype(int).T
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    x, y = np.clip(x, 0, WIDTH - 1), np.clip(y, 0, HEIGHT - 1)
    on_deck = np.abs(path[:, 1] - deck.row - deck.slope * path[:, 0]) <= deck.half + 1.6
    on_deck &= (path[:, 0] > deck.left - 4) & (path[:, 0] < deck.right + 4)
    member = where.member[y, x]
    blank = np.cumsum(~faint[y, x] & (np.arange(-3, _FAR) > 0))
    hit = np.flatnonzero((on_deck | (member >= 0)) & (blank <= _JUMP) & inside)
    if len(hit) == 0:
        return _Held("free", end, False)
    k = int(hit[0])
    gap = bool(blank[k] > _BLANK)
    if on_deck[k]:
        return _Held("deck", _onto(path[k], way, deck), gap)
    number = int(member[k])
    return _Held(number, axes[number][where.point[y[k], x[k]]], gap)


def _meet(
    end: Array, way: Array, self_: int, axes: list[Array], widths: list[float], faint: Array, deck: Deck
) -> _Held:
    """What other carrier, or the deck, holds the end of a carrier within a short way of it."""
    path = end + np.arange(-4, _JUMP + 1)[:, None] * way
    x, y = np.clip(np.rint(path).astype(int), 0, [WIDTH - 1, HEIGHT - 1]).T
    blank = np.cumsum(~faint[y, x] & (np.arange(-4, _JUMP + 1) > 0))
    best: tuple[int, int, int] | None = None
    for k, axis in enumerate(axes):
        if k != self_:
            far = np.hypot(path[:, None, 0] - axis[None, :, 0], path[:, None, 1] - axis[None, :, 1])
            hit = np.flatnonzero(far.min(1) <= max(2.5, widths[k] / 2 + 1.5))
            if len(hit) and (best is None or hit[0] < best[0]):
                best = int(hit[0]), k, int(far[hit[0]].argmin())
    level = np.abs(path[:, 1] - deck.row - deck.slope * path[:, 0]) <= deck.half + 2.5
    hit = np.flatnonzero(level & (path[:, 0] > deck.left - 4) & (path[:, 0] < deck.right + 4))
    if len(hit) and (best is None or hit[0] < best[0]):
        return _Held("deck", _onto(path[hit[0]], way, deck), bool(blank[hit[0]] > _BLANK))
    if best is None:
        return _Held("free", end, False)
    return _Held(best[1], axes[best[1]][best[2]], bool(blank[best[0]] > _BLANK))


def _onto(point: Array, way: Array, deck: Deck) -> Array:
    """Where a line that reaches the deck's edge meets its centre line; a flat one ends where it reaches the edge."""
    down = deck.at(point[0]) - point[1]
    reach = down / way[1] * way[0] if abs(way[1]) > 0.2 else 0.0
    x = point[0] + np.clip(reach, -14, 14)
    return np.array([np.clip(x, deck.left, deck.right), deck.at(x)])


def recognise(strokes: list[Stroke], uprights: list[Upright], ink: Ink, deck: Deck) -> list[Member]:
    """Name every stroke and find what holds its ends. Strokes that others already account for are left out.

    The uprights come first in the answer, in their order.
    """
    lines = [_measure(s, deck) for s in strokes]
    lines = [line for line in lines if not _is_deck(line, deck)]
    ground = max((float(line.stroke.points[e][1]) + line.stroke.thickness / 2
                  for line in lines if not line.above for e in (0, -1)), default=0.0)
    ground = max([ground, *(bar.bottom for bar in uprights)])
    named = [(line, *_kind(line, lines, deck, ground, ink.mask)) for line in lines]
    chosen = [(line, kind, sure) for line, kind, sure in named if kind]
    axes = [_dense(np.array([[bar.x, bar.top], [bar.x, bar.bottom]])) for bar in uprights]
    axes += [_smooth(line) if kind in ("arch", "cable") else _dense(_straight(line.stroke.points)[0])
             for line, kind, _ in chosen]
    widths = [2 * bar.half for bar in uprights] + [line.stroke.thickness for line, _, _ in chosen]
    members = [_upright(bar, axis, ground) for bar, axis in zip(uprights, axes, strict=False)]
    for k, (line, kind, sure) in enumerate(chosen, len(uprights)):
        feet = [_is_foot(line, end, deck, ground, ink.mask) for end in (0, -1)]
        members.append(_carrier(k, line, kind, sure, feet, axes, widths, ink, deck))
    where = _mapped(axes, widths)
    rest = [line for line, kind, _ in named if not kind and length(line.stroke.points) >= _SHORTEST]
    rest.sort(key=lambda line: -line.chord)
    drawn = where.member >= 0
    for line in rest:
        member = _secondary(line, members, where, axes, ink, deck, drawn)
        if member is not None:
            members.append(member)
    return _tied(members)


def _tied(members: list[Member]) -> list[Member]:
    """Ends that no carrier holds, but that lie on another stay or hanger: those two are tied to each other."""
    done = []
    for k, member in enumerate(members):
        ends, at = list(member.ends), member.at.copy()
        for end in (0, 1):
            if ends[end] == "free" and member.kind not in ("tower", "pier"):
                for j, other in enumerate(members):
                    far = np.hypot(*(other.points - at[end]).T)
                    if j != k and far.min() <= _TIED and k not in other.ends:
                        ends[end], at[end] = j, other.points[far.argmin()]
                        break
        done.append(member._replace(ends=(ends[0], ends[1]), at=at))
    return done


def _upright(bar: Upright, axis: Array, ground: float) -> Member:
    foot = "ground" if bar.bottom >= ground - _GROUND else "free"
    kind, ends = ("tower", ("free", "deck")) if bar.tower else ("pier", ("deck", foot))
    return Member(kind, _surely(1 + bar.half / 2), axis, 2 * bar.half, 0.0, ends, axis[[0, -1]], 0)


def _way_out(axis: Array, end: int) -> Array:
    """Unit vector in which an axis leaves its end."""
    inner = axis[min(12, len(axis) - 1)] if end == 0 else axis[max(-13, -len(axis))]
    return (axis[end] - inner) / max(float(np.hypot(*(axis[end] - inner))), 1e-9)


def _on(code: int, end: Array, way: Array, axes: list[Array], deck: Deck) -> _Held:
    """The end of a stroke that touches the deck or an upright."""
    if code == DECK:
        return _Held("deck", _onto(end, way, deck), False)
    axis = axes[code - UPRIGHT]
    across = axis[0, 0] - end[0]
    y = end[1] + (np.clip(across / way[0] * way[1], -14, 14) if abs(way[0]) > 0.05 else 0.0)
    return _Held(code - UPRIGHT, axis[np.abs(axis[:, 1] - y).argmin()], False)


def _carrier(k: int, line: _Line, kind: str, sure: float, feet: list[bool], axes: list[Array], widths: list[float],
             ink: Ink, deck: Deck) -> Member:
    """A leg, arch, cable or strut with what holds its ends."""
    axis, held = axes[k], []
    for end in (0, -1):
        way = _way_out(axis, end)
        if line.stroke.on[end]:
            held.append(_on(line.stroke.on[end], axis[end], way, axes, deck))
        elif feet[end]:
            held.append(_Held("ground", axis[end], False))
        else:
            held.append(_meet(axis[end], way, k, axes, widths, ink.faint, deck))
    ends = held[0].by, held[1].by
    return Member(kind, sure, axis, line.stroke.thickness, line.bow, ends, np.stack([h.at for h in held]),
                  sum(h.gap for h in held))


def _secondary(line: _Line, members: list[Member], where: _Map, axes: list[Array], ink: Ink, deck: Deck,
               drawn: Array) -> Member | None:
    """A stay, hanger or column with what holds its ends; None where the ink belongs to members already found."""
    on = line.stroke.on
    ends, way = _straight(line.stroke.points, 1 if on[0] == DECK else -1 if on[1] == DECK else 0)
    x, y = np.rint(line.stroke.points).astype(int).T
    if drawn[y, x].mean() > 0.6:
        return None
    held = []
    for end, out in ((0, -way), (1, way)):
        code = on[end] if np.hypot(*(ends[end] - line.stroke.points[-end])) < 6 else NOTHING
        held.append(_on(code, ends[end], out, axes, deck) if code else _follow(ends[end], out, where, axes, ink.faint, deck))
    at = np.stack([h.at for h in held])
    axis = _dense(at)
    x, y = np.clip(np.rint(axis).astype(int), 0, [WIDTH - 1, HEIGHT - 1]).T
    for dx in range(-3, 4):
        for dy in range(-3, 4):
            drawn[np.clip(y + dy, 0, HEIGHT - 1), np.clip(x + dx, 0, WIDTH - 1)] = True
    kind, sure = _secondary_kind(line, [h.by for h in held], members)
    return Member(kind, sure, axis, line.stroke.thickness, 0.0, (held[0].by, held[1].by), at, sum(h.gap for h in held))


def _secondary_kind(line: _Line, by: list[str | int], members: list[Member]) -> tuple[str, float]:
    kinds = [members[b].kind if isinstance(b, int) else b for b in by]
    both = 1.0 if "free" not in kinds else 0.3
    if not line.above:
        return ("column", _surely(both * (1.5 - line.lean / 30))) if line.lean < 25 else ("strut", 0.6)
    if "tower" in kinds and line.lean > _UPRIGHT:
        return "stay", _surely(1.5 * both)
    if "cable" in kinds or "arch" in kinds:
        return "hanger", _surely(1.5 * both)
    return ("hanger" if line.lean <= _UPRIGHT else "stay"), _surely(0.5 * both)
