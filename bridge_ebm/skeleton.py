"""The lines of a picture: skeleton, pixel graph, strokes.

A stroke is one line as a draughtsman would draw it, carried on through the junctions where others touch or cross it.
The deck, the piers and the towers are known already (ink.py) and are taken out of the skeleton first, so that what
hangs above the deck and what stands below it are strokes of their own that end on them.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bridge_ebm.ink import HEIGHT, WIDTH, Deck, Upright, grown

NOTHING, DECK, UPRIGHT = 0, 1, 2
_MOST_EDGES = 900  # pieces of line between joints
_SMOOTH_TURN = 25.0  # degrees: two lines at a junction that turn less are one stroke
_GRAZING = 18.0  # degrees: the same on the deck's edge, for a cable or arch that all but touches the deck
_CORNER = 40.0  # degrees within `_REACH` pixels: a stroke that turns more is two
_REACH = 7

Array = np.ndarray


class Stroke(NamedTuple):
    """One line: its points [K, 2] (x, y), its thickness in pixels, and what it meets at its two ends.

    `on` says what holds its ends: `NOTHING`, `DECK`, or `UPRIGHT` + number of the upright. `crossed` are the points
    [J, 2] between its ends where other strokes join it, `grazed` [G, 2] those where it all but touches the deck.
    """

    points: Array
    thickness: float
    on: tuple[int, int]
    crossed: Array
    grazed: Array


class _Edge(NamedTuple):
    a: int
    b: int
    points: Array  # [K, 2] from node a to node b


def find_strokes(mask: Array, skeleton: Array, deck: Deck, uprights: list[Upright]) -> list[Stroke] | None:
    """All lines of the picture but the deck and the uprights, as strokes; None when they are too many for a bridge."""
    distance = _depth(mask, skeleton)
    off = np.abs(np.arange(HEIGHT)[:, None] - deck.row - deck.slope * np.arange(WIDTH)) - deck.half
    owner = np.zeros(mask.shape, np.int16)
    for k, bar in enumerate(uprights):
        margin = bar.half + 1.6
        rows = slice(max(int(bar.top) - (4 if bar.tower else 0), 0), int(bar.bottom) + (2 if bar.tower else 5))
        if bar.slope:
            axis = bar.x + bar.slope * (np.arange(HEIGHT)[rows, None] - bar.bottom)
            owner[rows][np.abs(np.arange(WIDTH) - axis) <= margin] = UPRIGHT + k
        else:
            owner[rows, max(round(bar.x - margin), 0) : round(bar.x + margin) + 1] = UPRIGHT + k
    owner[(off <= 1.6) & skeleton] = DECK
    owner *= skeleton
    rest = skeleton & (owner == NOTHING)
    touching = np.where(rest, grown(owner), NOTHING)
    pixels, edges = _trace(rest, touching > 0)
    if not edges or len(edges) > _MOST_EDGES:
        return [] if not edges else None
    contact = touching[pixels[:, 0], pixels[:, 1]]
    half = distance[pixels[:, 0], pixels[:, 1]]
    edges = [e for e in edges if not (contact[e.a] and contact[e.b] and _along(e.points, off))]
    edges, place, contact = _contracted(edges, pixels, contact, half)
    return _strokes(edges, place, contact, distance)


def _depth(mask: Array, skeleton: Array) -> Array:
    """How far the pixels of the skeleton lie inside the ink, [H, W], pixels; 0 elsewhere."""
    inked = np.flatnonzero(mask.any(1))
    rows = slice(max(inked[0] - 1, 0), inked[-1] + 2)  # the ground next to the ink is all that counts
    nearest = np.zeros((2, *mask[rows].shape), np.int32)
    ndimage.distance_transform_edt(mask[rows], return_distances=False, return_indices=True, indices=nearest)
    y, x = np.nonzero(skeleton[rows])
    depth = np.zeros(mask.shape)
    depth[rows][y, x] = np.hypot(nearest[0, y, x] - y, nearest[1, y, x] - x)
    return depth


def _along(points: Array, off: Array) -> bool:
    """Whether a path runs along the edge of the deck: it is the deck, not a member."""
    x, y = points.T.astype(int)
    return float(off[y, x].max()) < 3.5


def _trace(rest: Array, touching: Array) -> tuple[Array, list[_Edge]]:
    """Skeleton pixels [P, 2] (row, column), and the paths between those that are no mere link of a chain."""
    pixels = np.argwhere(rest)
    number = np.full((HEIGHT + 2, WIDTH + 2), -1)
    number[pixels[:, 0] + 1, pixels[:, 1] + 1] = np.arange(len(pixels))
    pairs = []
    y, x = pixels[:, 0] + 1, pixels[:, 1] + 1
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        there = number[y + dy, x + dx]
        linked = there >= 0
        if dy and dx:  # a diagonal counts only where no right-angled way round exists
            linked &= (number[y + dy, x] < 0) & (number[y, x + dx] < 0)
        pairs.append(np.stack([np.flatnonzero(linked), there[linked]], 1))
    both = np.concatenate(pairs)
    order = np.argsort(both.ravel(), kind="stable")  # one flat list: thousands of small ones keep the collector busy
    near_all = both[:, ::-1].ravel()[order].tolist()
    degree = np.bincount(both.ravel(), minlength=len(pixels))
    starts = [0, *np.cumsum(degree).tolist()]
    node = ((degree != 2) | touching[pixels[:, 0], pixels[:, 1]]).tolist()
    edges, used = [], set()

    def links(p: int) -> list[int]:
        return near_all[starts[p] : starts[p + 1]]

    def walk(start: int, step: int) -> None:
        path = [start, step]
        while not node[path[-1]] and path[-1] != start:
            near = links(path[-1])
            path.append(near[0] if near[0] != path[-2] else near[1])
        if (path[-1], path[-2]) in used:
            return
        used.add((start, step))
        used.update((p, -1) for p in path[1:-1])
        edges.append(_Edge(start, path[-1], pixels[path][:, ::-1].astype(float)))

    for start in range(len(pixels)):
        if node[start]:
            for step in links(start):
                walk(start, step)
    for start in range(len(pixels)):  # rings without any node
        if not node[start] and (start, -1) not in used:
            node[start] = True
            walk(start, links(start)[0])
    return pixels, edges


def length(points: Array) -> float:
    """Length of a polyline [K, 2]."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def _contracted(edges: list[_Edge], pixels: Array, contact: Array, half: Array) -> tuple[list[_Edge], Array, Array]:
    """Drop the spurs that thick ends grow, and make one node of the several that a thick crossing falls into.

    Returns the edges, and for every node where it is [N, 2] and what holds it.
    """
    degree = np.bincount(np.array([n for e in edges for n in (e.a, e.b)], int), minlength=len(pixels))

    def spur(edge: _Edge) -> bool:
        for tip, root in ((edge.a, edge.b), (edge.b, edge.a)):
            if degree[tip] == 1 and not contact[tip] and (degree[root] > 2 or contact[root]):
                return length(edge.points) < 1.35 * half[root] + 2
        return False

    edges = [e for e in edges if not spur(e)]
    degree = np.bincount(np.array([n for e in edges for n in (e.a, e.b)], int), minlength=len(pixels))
    root = np.arange(len(pixels))

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    kept = []
    for e in edges:
        joins = (degree[e.a] > 2 or contact[e.a]) and (degree[e.b] > 2 or contact[e.b])
        near = 2.5 if contact[e.a] or contact[e.b] else 2.5 + 0.6 * (half[e.a] + half[e.b])
        if joins and length(e.points) <= near:
            root[find(e.a)] = find(e.b)
        else:
            kept.append(e)
    group = np.array([find(n) for n in range(len(pixels))])
    ends = np.unique(np.array([n for e in edges for n in (e.a, e.b)], int))
    many = np.maximum(np.bincount(group[ends], minlength=len(pixels)), 1)
    place = np.stack([np.bincount(group[ends], pixels[ends, axis], len(pixels)) / many for axis in (1, 0)], 1)
    held = np.zeros(len(pixels), int)
    np.maximum.at(held, group[ends], contact[ends])
    merged = []
    for e in kept:
        a, b = int(group[e.a]), int(group[e.b])
        if a == b and length(e.points) < 12:
            continue
        merged.append(_Edge(a, b, np.vstack([place[a], e.points[1:-1], place[b]])))
    return merged, place, held


def _heading(points: Array) -> Array:
    """Unit vector in which a path leaves its first point; its first pixels are displaced by the junction."""
    away = points[min(17, len(points) - 1)] - points[min(4, len(points) // 4)]
    return away / max(float(np.hypot(*away)), 1e-9)


def _strokes(edges: list[_Edge], place: Array, contact: Array, distance: Array) -> list[Stroke]:
    """Chain edges into strokes: at every node off the deck the straightest pairs go on, two by two."""
    ends: dict[int, list[tuple[int, bool]]] = {}
    for k, e in enumerate(edges):
        ends.setdefault(e.a, []).append((k, False))
        ends.setdefault(e.b, []).append((k, True))
    mate: dict[tuple[int, bool], tuple[int, bool]] = {}
    for node, meeting in ends.items():
        if contact[node] >= UPRIGHT:
            continue
        headings = [_heading(edges[k].points[::-1] if last else edges[k].points) for k, last in meeting]
        limit = _SMOOTH_TURN if len(meeting) > 2 else _CORNER
        if contact[node]:  # only a cable or arch that grazes the deck goes on there
            limit = _GRAZING
        turns = sorted(
            (float(np.degrees(np.arccos(np.clip(-headings[i] @ headings[j], -1, 1)))), i, j)
            for i in range(len(meeting))
            for j in range(i)
        )
        for turn, i, j in turns:
            if turn < limit and meeting[i] not in mate and meeting[j] not in mate:
                mate[meeting[i]], mate[meeting[j]] = meeting[j], meeting[i]
    done: set[int] = set()
    found = []
    for first in range(len(edges)):
        if first in done:
            continue
        k, forward = _start_of_chain(first, mate)
        chain = []
        while k not in done:
            done.add(k)
            chain.append((k, forward))
            onward = mate.get((k, forward))
            if onward is None:
                break
            k, forward = onward[0], not onward[1]
        found += _cut([(edges[k], forward) for k, forward in chain], place, contact, distance)
    return found


def _start_of_chain(edge: int, mate: dict[tuple[int, bool], tuple[int, bool]]) -> tuple[int, bool]:
    """The first edge of the chain that holds `edge`, and whether the chain runs along it from its a to its b."""
    k, end, seen = edge, False, {edge}  # walk back over end `end` of edge k
    while (k, end) in mate:
        other, at = mate[(k, end)]
        if other in seen:
            break
        seen.add(other)
        k, end = other, not at
    return k, not end


def _cut(chain: list[tuple[_Edge, bool]], place: Array, contact: Array, distance: Array) -> list[Stroke]:
    """The strokes of one chain of edges: one, or several where it turns a corner."""
    parts = [e.points if forward else e.points[::-1] for e, forward in chain]
    points = np.vstack([parts[0], *(p[1:] for p in parts[1:])])
    starts = np.cumsum([0, *(len(p) - 1 for p in parts)]).tolist()
    nodes = [(e.b if forward else e.a) for e, forward in chain]
    first = chain[0][0].a if chain[0][1] else chain[0][0].b
    places = np.array([place[n] for n in nodes[:-1]]).reshape(-1, 2)
    # Where two edges were paired they go straight on, whatever the pixels about the junction look like.
    turns = [start + 1 + k for start, p in zip(starts, parts, strict=False) for k in _corners(p[1:-1])]
    corners = [0, *turns, len(points) - 1]
    strokes = []
    for a, b in zip(corners, corners[1:], strict=False):
        part = points[a : b + 1]
        x, y = np.rint(part).astype(int).T
        inner = slice(len(x) // 5, len(x) - len(x) // 5 or None)
        thickness = max(2 * float(np.median(distance[y, x][inner])) - 1, 1.0)
        on = (int(contact[first]) if a == 0 else NOTHING, int(contact[nodes[-1]]) if b == len(points) - 1 else NOTHING)
        near = np.array([np.hypot(*(part - p).T).min() < 0.5 for p in places], bool)
        grazing = near & np.array([contact[n] == DECK for n in nodes[:-1]], bool)
        strokes.append(Stroke(part, thickness, on, places[near & ~grazing], places[grazing]))
    return strokes


def _corners(points: Array) -> list[int]:
    """Where a path turns sharply."""
    if len(points) < 2 * _REACH + 2:
        return []
    back = points[_REACH:-_REACH] - points[: -2 * _REACH]
    ahead = points[2 * _REACH :] - points[_REACH:-_REACH]
    turn = np.degrees(np.abs(np.angle((ahead @ [1, 1j]) / (back @ [1, 1j] + 1e-9))))
    corners: list[int] = []
    while turn.max() > _CORNER:
        k = int(turn.argmax())
        corners.append(k + _REACH)
        turn[max(k - 2 * _REACH, 0) : k + 2 * _REACH] = 0
    return sorted(corners)
