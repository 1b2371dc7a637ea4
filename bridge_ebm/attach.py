"""Axes of the lines, and what holds their ends: following a line along its ink to the member or deck it meets."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bridge_ebm.ink import HEIGHT, WIDTH, Deck
from bridge_ebm.skeleton import DECK, UPRIGHT, Stroke

SHORTEST = 5.0  # pixels: shorter lines are blemishes of the skeleton
_BOW = (1.6, 0.018)  # pixels, and share of the chord: less is a straight line
_FAR = 90  # pixels that a line is followed along its own ink
_JUMP = 14  # pixels without ink that are bridged, as a repair
_ABOUT = np.array([dy * WIDTH + dx for dy in (-3, -1, 0, 1, 3) for dx in (-3, -1, 0, 1, 3)])
_BLANK = 5  # pixels without ink that are no gap yet

Array = np.ndarray


class Line(NamedTuple):
    """A stroke with its shape: whether it lies above the deck, chord and bow (up: positive) in pixels, lean."""

    stroke: Stroke
    above: bool
    chord: float
    lean: float  # degrees off the vertical
    bow: float
    limit: float  # bow from which the line counts as curved
    fair: bool  # whether a smooth bow describes it


def _within(distances: Array, share: float) -> float:
    """The distance that `share` of them are within; np.percentile takes ten times as long on so few."""
    return float(np.sort(distances)[int(share * (len(distances) - 1))])


def measure(stroke: Stroke, deck: Deck) -> Line:
    """Chord, lean and bow of a stroke."""
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
        fit = np.linalg.solve(shape.T @ shape + 1e-9 * np.eye(3), shape.T @ across[inner])
        bow = float(fit[0])
        fair = _within(np.abs(across[inner] - shape @ fit), 0.9) < 1.2 + 0.03 * abs(bow)
    lean = float(np.degrees(np.arctan2(abs(along[0]), abs(along[1]))))
    return Line(stroke, y < deck.at(x), chord, lean, bow, max(_BOW[0], _BOW[1] * chord), fair)


class Map(NamedTuple):
    """Which member is drawn where: number of the member and of its point, -1 where none is."""

    member: Array
    point: Array


def mapped(axes: list[Array], widths: list[float]) -> Map:
    """Enter the members in a map: every pixel belongs to the nearest axis, if that is near enough."""
    if not axes:
        return Map(np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), -1))
    member, point = np.full((HEIGHT, WIDTH), -1), np.full((HEIGHT, WIDTH), -1)
    for k, axis in enumerate(axes):
        x, y = np.clip(np.rint(axis).astype(int), 0, [WIDTH - 1, HEIGHT - 1]).T
        member[y, x], point[y, x] = k, np.arange(len(axis))
    nearest = np.zeros((2, HEIGHT, WIDTH), np.int32)
    ndimage.distance_transform_edt(member < 0, return_distances=False, return_indices=True, indices=nearest)
    rows, columns = nearest
    y, x = np.arange(HEIGHT, dtype=np.int32)[:, None], np.arange(WIDTH, dtype=np.int32)
    far = (rows - y) ** 2 + (columns - x) ** 2
    reach = np.maximum(1.5, np.array(widths) / 2) ** 2
    at = np.flatnonzero(far.ravel() <= reach.max())
    to = rows.ravel()[at] * WIDTH + columns.ravel()[at]
    near = far.ravel()[at] <= reach[member.ravel()[to]]
    at, to = at[near], to[near]
    found = np.full((2, HEIGHT * WIDTH), -1)
    found[0, at], found[1, at] = member.ravel()[to], point.ravel()[to]
    return Map(*found.reshape(2, HEIGHT, WIDTH))


def dense(points: Array) -> Array:
    """A polyline with a point every pixel."""
    step = np.hypot(*np.diff(points, axis=0).T)
    at = np.concatenate([[0], np.cumsum(step)])
    to = np.linspace(0, at[-1], max(int(at[-1]) + 1, 2))
    return np.stack([np.interp(to, at, points[:, 0]), np.interp(to, at, points[:, 1])], 1)


def smooth(line: Line) -> Array:
    """The axis of a curved line: a quartic over its chord, where that follows the pixels."""
    p = line.stroke.points
    along = (p[-1] - p[0]) / line.chord
    side = np.array([along[1], -along[0]])
    t, across = (p - p[0]) @ along / line.chord * 2 - 1, (p - p[0]) @ side
    if len(p) < 20 or np.abs(t).max() > 1.3:
        return dense(p)
    weight = np.where(np.abs(t) > 0.95, 0.2, 1.0)  # the skeleton bends where members meet
    fit = np.polynomial.polynomial.polyfit(t, across, 4, w=weight)
    off = across - np.polynomial.polynomial.polyval(t, fit)
    if np.percentile(np.abs(off), 90) > 1.5:
        soft = ndimage.gaussian_filter1d(p, 5, axis=0, mode="nearest")
        return dense(np.vstack([p[0], soft[3:-3], p[-1]]))
    even = np.linspace(-1, 1, max(int(line.chord), 2))
    height = np.polynomial.polynomial.polyval(even, fit)
    return p[0] + np.outer((even + 1) / 2 * line.chord, along) + np.outer(height, side)


def straight(points: Array, firm: int = 0) -> tuple[Array, Array]:
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
    away = np.zeros(len(points))
    centre, way = points.mean(0), np.array([1.0, 0.0])
    for _ in range(4):
        weight = trust / (1 + away**2)
        centre = weight @ points / weight.sum()
        off = points - centre
        (xx, xy), (_, yy) = (weight * off.T) @ off
        angle = 0.5 * np.arctan2(2 * xy, xx - yy)
        way = np.array([np.cos(angle), np.sin(angle)])
        away = np.abs(off @ [way[1], -way[0]])
    if way @ (points[-1] - points[0]) < 0:
        way = -way
    t = (points - centre) @ way
    return np.stack([centre + t[0] * way, centre + t[-1] * way]), way, _within(away, 0.85)


class Held(NamedTuple):
    """What holds an end ("deck", "ground", "free" or the number of a member), where, and whether over a gap."""

    by: str | int
    at: Array
    gap: bool


def follow(end: Array, way: Array, where: Map, axes: list[Array], faint: Array, deck: Deck) -> Held:
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
        return Held("free", end, False)
    k = int(hit[0])
    gap = bool(blank[k] > _BLANK)
    if gap:  # no gap where the line already ends at a member, only beside the way on
        close = where.member[max(y[3] - 4, 0) : y[3] + 5, max(x[3] - 4, 0) : x[3] + 5]
        if (close >= 0).any():
            number = int(close.max())
            return Held(number, axes[number][np.hypot(*(axes[number] - end).T).argmin()], False)
    if on_deck[k]:
        return Held("deck", onto(path[k], way, deck), gap)
    number = int(member[k])
    return Held(number, axes[number][where.point[y[k], x[k]]], gap)


def meet(end: Array, way: Array, self_: int, axes: list[Array], widths: list[float], faint: Array, deck: Deck) -> Held:
    """What other carrier, or the deck, holds the end of a carrier within a short way of it."""
    path = end + np.arange(-4, _JUMP + 1)[:, None] * way
    x, y = np.clip(np.rint(path).astype(int), 0, [WIDTH - 1, HEIGHT - 1]).T
    blank = np.cumsum(~faint[y, x] & (np.arange(-4, _JUMP + 1) > 0))
    points = np.concatenate(axes)
    owner = np.repeat(np.arange(len(axes)), [len(axis) for axis in axes])
    reach = np.maximum(2.5, np.array(widths) / 2 + 1.5)
    near = (np.abs(points - end).max(1) <= _JUMP + reach.max()) & (owner != self_)
    points, owner = points[near], owner[near]
    far = np.hypot(path[:, None, 0] - points[:, 0], path[:, None, 1] - points[:, 1])
    close = far <= reach[owner]
    first = np.flatnonzero(close.any(1))[:1]  # the place on the way where the first of them are met
    best: tuple[int, int, Array] | None = None
    if len(first):
        number = int(owner[close[first[0]]].min())
        mine = owner == number
        best = int(first[0]), number, points[mine][far[first[0], mine].argmin()]
    level = np.abs(path[:, 1] - deck.row - deck.slope * path[:, 0]) <= deck.half + 2.5
    hit = np.flatnonzero(level & (path[:, 0] > deck.left - 4) & (path[:, 0] < deck.right + 4))
    if len(hit) and (best is None or hit[0] < best[0]):
        return Held("deck", onto(path[hit[0]], way, deck), bool(blank[hit[0]] > _BLANK))
    if best is None:
        return Held("free", end, False)
    return Held(best[1], best[2], bool(blank[best[0]] > _BLANK))


def onto(point: Array, way: Array, deck: Deck) -> Array:
    """Where a line that reaches the deck's edge meets its centre line; a flat one ends where it reaches the edge."""
    down = deck.at(point[0]) - point[1]
    reach = down / way[1] * way[0] if abs(way[1]) > 0.2 else 0.0
    x = min(max(point[0] + min(max(reach, -14), 14), deck.left), deck.right)
    return np.array([x, deck.at(x)])


def way_out(axis: Array, end: int) -> Array:
    """Unit vector in which an axis leaves its end."""
    inner = axis[min(12, len(axis) - 1)] if end == 0 else axis[max(-13, -len(axis))]
    return (axis[end] - inner) / max(float(np.hypot(*(axis[end] - inner))), 1e-9)


def on_stroke(code: int, end: Array, way: Array, axes: list[Array], deck: Deck) -> Held:
    """The end of a stroke that touches the deck or an upright."""
    if code == DECK:
        return Held("deck", onto(end, way, deck), False)
    axis = axes[code - UPRIGHT]
    across = axis[np.abs(axis[:, 1] - end[1]).argmin(), 0] - end[0]
    y = end[1] + (np.clip(across / way[0] * way[1], -14, 14) if abs(way[0]) > 0.05 else 0.0)
    return Held(code - UPRIGHT, axis[np.abs(axis[:, 1] - y).argmin()], False)


def cover(drawn: Array, axis: Array) -> None:
    """Note that the ink within some 3 pixels of `axis` is accounted for."""
    x, y = np.clip(np.rint(axis).astype(int), 3, [WIDTH - 4, HEIGHT - 4]).T
    drawn.ravel()[(y * WIDTH + x)[:, None] + _ABOUT] = True


class Tips(NamedTuple):
    """The ends of all lines, one row per end: where it is, the unit vector into the line, and whether it is steep."""

    at: Array
    way: Array
    steep: Array
    line: Array


def find_tips(lines: list[Line]) -> Tips:
    """The ends of `lines`."""
    at = np.array([line.stroke.points[e] for line in lines for e in (0, -1)]).reshape(-1, 2)
    chord = np.array([max(line.chord, 1e-9) for line in lines for _ in (0, 1)])
    other = np.array([line.stroke.points[-1 - e] for line in lines for e in (0, -1)]).reshape(-1, 2)
    steep = np.array([line.lean < 35 and line.chord >= SHORTEST for line in lines for _ in (0, 1)], bool)
    return Tips(at, (other - at) / chord[:, None], steep, np.repeat([id(line) for line in lines], 2))


def bears(line: Line, tips: Tips) -> int:
    """How many uprights or other steep lines end on the line between its ends."""
    count = 0
    points = line.stroke.points
    for joint in line.stroke.crossed:
        near = int(np.hypot(*(points - joint).T).argmin())
        a, b = points[max(near - 9, 0)], points[min(near + 9, len(points) - 1)]
        way = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
        here = tips.steep & (tips.line != id(line)) & (np.abs(tips.at - joint).sum(1) < 2.5)
        count += int((np.abs(tips.way[here] @ way) < 0.8).sum())
    return count
