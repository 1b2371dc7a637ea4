"""A picture of a bridge to its lines: canvas, ink, deck line, skeleton, pixel graph, strokes.

Everything here is measured in pixels of one canvas of 128 x 512, whatever the size of the picture: x to the right,
y down, pixel centres at whole numbers. A stroke is one line as a draughtsman would draw it, carried on through the
junctions where others touch or cross it. The deck is found first and taken out, so that what hangs above it and what
stands below it are strokes of their own that end on the deck.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import remove_small_objects, skeletonize

from bridge_ebm.errors import InputError

HEIGHT, WIDTH = 128, 512
METRES = 300 / 475.34  # a canvas pixel, from the paper's 300 m of deck
_MOST_INK, _MOST_PIECES, _MOST_LINE = 0.35, 150, 6500  # beyond these a picture is noise: refused before the graph
_SPECK = 12  # pixels
_SMOOTH_TURN = 25.0  # degrees: two lines at a junction that turn less are one stroke
_CORNER = 40.0  # degrees within `_REACH` pixels: a stroke that turns more is two
_REACH = 7
DEEP = 28  # pixels below the deck from which the ground may lie
_TOWER = 14  # pixels above the deck: what reaches higher over a pier is a tower

NOTHING, DECK, UPRIGHT = 0, 1, 2

Array = np.ndarray


class Ink(NamedTuple):
    """Where the picture is drawn on: grey [128, 512] in [0, 1], masks, and the grey level of the ground.

    `mask` holds the lines, `whole` the same before lines that run together were parted, `faint` all traces of ink.
    """

    grey: Array
    mask: Array
    whole: Array
    faint: Array
    noise: float


class Deck(NamedTuple):
    """The deck's centre line y = row + slope x from `left` to `right`, half its thickness, and how whole it is.

    `gap` is the longest break in pixels, `cover` the share of its columns that are drawn.
    """

    row: float
    slope: float
    left: float
    right: float
    half: float
    gap: int
    cover: float

    def at(self, x: float) -> float:
        """Y of the centre line."""
        return self.row + self.slope * x


class Upright(NamedTuple):
    """A pier or, above the deck, a tower: the vertical bar x, half wide `half`, from row `top` to row `bottom`."""

    x: float
    half: float
    top: float
    bottom: float
    tower: bool


class Stroke(NamedTuple):
    """One line: its points [K, 2] (x, y), its thickness in pixels, and what it meets at its two ends.

    `on` says what holds its ends: `NOTHING`, `DECK`, or `UPRIGHT` + number of the upright. `crossed` are the points
    [J, 2] between its ends where other strokes join it.
    """

    points: Array
    thickness: float
    on: tuple[int, int]
    crossed: Array


class _Edge(NamedTuple):
    a: int
    b: int
    points: Array  # [K, 2] from node a to node b


def canvas(image: Array) -> tuple[Array, bool]:
    """The picture as float [128, 512] in [0, 1], and whether it had to be enlarged for that.

    Takes uint8, or floats in [-1, 1] or [0, 1], [H, W] or [H, W, 1]. Raises `InputError` on anything else.
    """
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or min(array.shape) < 8:
        raise InputError(f"a picture must be [H, W] or [H, W, 1] and at least 8 x 8, not {list(np.shape(image))}")
    if array.dtype == np.uint8:
        grey = array.astype(np.float32) / 255
    elif np.issubdtype(array.dtype, np.floating):
        grey = array.astype(np.float32)
        if not np.isfinite(grey).all():
            raise InputError("a picture must hold finite numbers only")
        if np.abs(grey).max() > 1.5:
            raise InputError("a picture of floats must lie in [-1, 1] or [0, 1]")
        if grey.min() < -0.5:
            grey = (grey + 1) / 2
    else:
        raise InputError(f"a picture must be uint8 or floating point, not {array.dtype}")
    enlarged = array.shape[0] < 0.75 * HEIGHT or array.shape[1] < 0.75 * WIDTH
    if grey.shape != (HEIGHT, WIDTH):
        resized = Image.fromarray(grey).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        grey = np.asarray(resized)
    return np.clip(grey, 0, 1), enlarged


def find_ink(grey: Array, enlarged: bool) -> Ink:
    """Hysteresis thresholds, lower for an enlarged picture (its thin lines are fainter), higher on a noisy ground.

    On a noisy ground the picture is smoothed first: thin grey stays lose half their height, the noise two thirds.
    """
    noise = float(np.percentile(grey, 80))  # at most 12% of a bridge picture is ink; a clean ground is 0
    low, high = (0.10, 0.22) if enlarged else (0.16, 0.30)
    seen = grey
    if noise > 0.015:
        seen = ndimage.gaussian_filter(grey, 1.0)
        ground = float(np.median(seen))
        spread = float(np.percentile(seen, 75)) - ground
        low, high = max(0.7 * low, ground + 5 * spread), max(0.7 * high, ground + 8 * spread)
    mask = apply_hysteresis_threshold(seen, low, high)
    whole = mask
    if enlarged:  # lines two pixels apart run into one another there: keep only what stands out from around it
        mask = mask & (seen > 0.8 * ndimage.gaussian_filter(seen, 3.0))
    mask = remove_small_objects(mask, max_size=_SPECK - 1, connectivity=2)
    return Ink(grey, mask, whole, seen > 0.6 * low, noise)


def trouble(ink: Ink, skeleton: Array) -> str | None:
    """Why this cannot be the picture of a bridge, seen before any graph is built; None when it may be one."""
    share = float(ink.mask.mean())
    if share > _MOST_INK:
        return f"{share:.0%} of the picture is ink"
    pieces = ndimage.label(ink.mask, np.ones((3, 3)))[1]
    if pieces > _MOST_PIECES:
        return f"the ink falls into {pieces} pieces"
    if skeleton.sum() > _MOST_LINE:
        return f"{int(skeleton.sum())} pixels of line are too many for a bridge"
    return None


def find_deck(mask: Array) -> Deck | None:
    """The longest nearly level line in the middle third of the canvas; None when no row is half covered."""
    columns = np.arange(WIDTH)
    best, row, tilt = 0, 0, 0
    middle = np.arange(HEIGHT // 3, HEIGHT - HEIGHT // 3)[:, None]
    flat = mask.ravel()
    for lean in range(-5, 6):  # pixels from the middle to the right edge; 0.3 degrees are 1.3
        rows = middle + np.rint(lean * (columns - 255.5) / 255.5).astype(int)
        counts = flat[rows * WIDTH + columns].sum(1)
        if counts.max() > best or (counts.max() == best and abs(lean) < abs(tilt)):
            best, tilt = int(counts.max()), lean
            row = HEIGHT // 3 + int(np.median(np.flatnonzero(counts == counts.max())))
    if best < WIDTH // 3:
        return None
    guess = row + tilt * (columns - 255.5) / 255.5
    top, bottom = _runs(mask, guess)
    drawn = bottom >= top
    thin = drawn & (bottom - top <= np.percentile((bottom - top)[drawn], 30) + 1)
    centre = (top + bottom) / 2
    slope, level = np.polyfit(columns[thin], centre[thin], 1)
    off = np.abs(centre - level - slope * columns)
    thin &= off <= max(1.0, 2 * float(np.median(off[thin])))
    if thin.sum() > 20:
        slope, level = np.polyfit(columns[thin], centre[thin], 1)
    half = float(np.mean((bottom - top + 1)[thin])) / 2
    line = level + slope * columns
    near = _runs(mask, line)
    drawn = near[1] >= near[0]
    where = np.flatnonzero(drawn)
    left, right = int(where[0]), int(where[-1])
    breaks = np.diff(where) - 1
    gap = int(breaks.max(initial=0))
    return Deck(float(level), float(slope), left, right, half, gap, len(where) / (right - left + 1))


def _runs(mask: Array, line: Array) -> tuple[Array, Array]:
    """First and last row of the ink that stands on `line` (within a pixel) in every column; last < first: none."""
    columns = np.arange(mask.shape[1])
    rows = np.arange(mask.shape[0])[:, None]
    start = np.clip(np.rint(line).astype(int), 1, mask.shape[0] - 2)
    for step in (-1, 1):  # where the line just misses the ink, start from the pixel beside it
        start = np.where(~mask[np.rint(line).astype(int).clip(1, 126), columns] & mask[start + step, columns]
                         & ~mask[start, columns], start + step, start)
    blank_above = np.where(~mask & (rows <= start), rows, -1).max(0)
    blank_below = np.where(~mask & (rows >= start), rows, mask.shape[0]).min(0)
    return blank_above + 1, np.where(mask[start, columns], blank_below - 1, blank_above)


def find_uprights(mask: Array, deck: Deck) -> list[Upright]:
    """Piers, from the deck straight down to the ground, and the towers that stand over them."""
    columns = np.arange(WIDTH)
    line = deck.row + deck.slope * columns
    start = np.clip(np.rint(line + deck.half + 1).astype(int), 0, HEIGHT - 1)
    rows = np.arange(HEIGHT)[:, None]
    below = np.where(~mask & (rows >= start), rows, HEIGHT).min(0) - start
    lowest = below.max(initial=0)
    if lowest < DEEP:
        return []
    starts, ends = _groups(below >= max(0.8 * lowest, DEEP))
    found = []
    for a, b in zip(starts, ends, strict=True):
        if b - a > 24:
            continue
        x, half = (a + b - 1) / 2, (b - a) / 2
        bottom = float(np.median((start + below)[a:b])) - 1
        if mask[int(bottom) + 4 :, max(a - 12, 0) : b + 12].any():
            continue  # a column on an arch: the arch goes lower
        found.append(Upright(x, half, deck.at(x), bottom, False))
        up = np.clip(np.rint(line - deck.half - 1).astype(int), 0, HEIGHT - 1)[a:b]
        above = up - np.where(~mask[:, a:b] & (rows <= up), rows, -1).max(0)
        if above.max() >= _TOWER:
            top = float(np.percentile((up - above)[above >= 0.6 * above.max()], 25)) + 1
            found.append(Upright(x, half, top, deck.at(x), True))
    return found


def _groups(where: Array) -> tuple[list[int], list[int]]:
    """First and one past the last index of every run of true values."""
    change = np.diff(np.concatenate([[0], where.astype(int), [0]]))
    return np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist()


def find_strokes(mask: Array, skeleton: Array, deck: Deck, uprights: list[Upright]) -> list[Stroke]:
    """All lines of the picture but the deck and the uprights, as strokes."""
    distance = ndimage.distance_transform_edt(mask)
    off = np.abs(np.arange(HEIGHT)[:, None] - deck.row - deck.slope * np.arange(WIDTH)) - deck.half
    owner = np.zeros(mask.shape, int)
    for k, bar in enumerate(uprights):
        margin = bar.half + 1.6
        rows = slice(max(int(bar.top) - (4 if bar.tower else 0), 0), int(bar.bottom) + (2 if bar.tower else 5))
        owner[rows, max(round(bar.x - margin), 0) : round(bar.x + margin) + 1] = UPRIGHT + k
    owner[(off <= 1.6) & skeleton] = DECK
    owner *= skeleton
    rest = skeleton & (owner == NOTHING)
    touching = np.where(rest, ndimage.maximum_filter(owner, 3), NOTHING)
    pixels, edges = _trace(rest, touching > 0)
    if not edges:
        return []
    contact = touching[pixels[:, 0], pixels[:, 1]]
    half = distance[pixels[:, 0], pixels[:, 1]]
    edges = [e for e in edges if not (contact[e.a] and contact[e.b] and _along(e.points, off))]
    edges, place, contact = _contracted(edges, pixels, contact, half)
    return _strokes(edges, place, contact, distance)


def _along(points: Array, off: Array) -> bool:
    """Whether a path runs along the edge of the deck: it is the deck, not a member."""
    x, y = points.T.astype(int)
    return float(off[y, x].max()) < 3.5


def _trace(rest: Array, touching: Array) -> tuple[Array, list[_Edge]]:
    """Skeleton pixels [P, 2] (row, column), and the paths between those that are no mere link of a chain."""
    pixels = np.argwhere(rest)
    number = np.full((HEIGHT + 2, WIDTH + 2), -1)
    number[pixels[:, 0] + 1, pixels[:, 1] + 1] = np.arange(len(pixels))
    links: list[list[int]] = [[] for _ in pixels]
    y, x = pixels[:, 0] + 1, pixels[:, 1] + 1
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        there = number[y + dy, x + dx]
        linked = there >= 0
        if dy and dx:  # a diagonal counts only where no right-angled way round exists
            linked &= (number[y + dy, x] < 0) & (number[y, x + dx] < 0)
        for a, b in zip(np.flatnonzero(linked).tolist(), there[linked].tolist(), strict=True):
            links[a].append(b)
            links[b].append(a)
    contact = touching[pixels[:, 0], pixels[:, 1]]
    node = [len(near) != 2 or bool(touch) for near, touch in zip(links, contact, strict=True)]
    edges, used = [], set()

    def walk(start: int, step: int) -> None:
        path = [start, step]
        while not node[path[-1]] and path[-1] != start:
            near = links[path[-1]]
            path.append(near[0] if near[0] != path[-2] else near[1])
        if (path[-1], path[-2]) in used:
            return
        used.add((start, step))
        used.update((p, -1) for p in path[1:-1])
        edges.append(_Edge(start, path[-1], pixels[path][:, ::-1].astype(float)))

    for start in range(len(pixels)):
        if node[start]:
            for step in links[start]:
                walk(start, step)
    for start in range(len(pixels)):  # rings without any node
        if not node[start] and (start, -1) not in used:
            node[start] = True
            walk(start, links[start][0])
    return pixels, edges


def _length(points: Array) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def _contracted(edges: list[_Edge], pixels: Array, contact: Array, half: Array) -> tuple[list[_Edge], Array, Array]:
    """Drop the spurs that thick ends grow, and make one node of the several that a thick crossing falls into.

    Returns the edges, and for every node where it is [N, 2] and what holds it.
    """
    degree = np.bincount([n for e in edges for n in (e.a, e.b)], minlength=len(pixels))

    def spur(edge: _Edge) -> bool:
        for tip, root in ((edge.a, edge.b), (edge.b, edge.a)):
            if degree[tip] == 1 and not contact[tip] and (degree[root] > 2 or contact[root]):
                return _length(edge.points) < 1.35 * half[root] + 2
        return False

    edges = [e for e in edges if not spur(e)]
    degree = np.bincount([n for e in edges for n in (e.a, e.b)], minlength=len(pixels))
    root = np.arange(len(pixels))

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    kept = []
    for e in edges:
        joins = (degree[e.a] > 2 or contact[e.a]) and (degree[e.b] > 2 or contact[e.b])
        near = 2.5 if contact[e.a] or contact[e.b] else 2.5 + 0.6 * (half[e.a] + half[e.b])
        if joins and _length(e.points) <= near:
            root[find(e.a)] = find(e.b)
        else:
            kept.append(e)
    group = np.array([find(n) for n in range(len(pixels))])
    ends = np.unique([n for e in edges for n in (e.a, e.b)])
    many = np.maximum(np.bincount(group[ends], minlength=len(pixels)), 1)
    place = np.stack([np.bincount(group[ends], pixels[ends, axis], len(pixels)) / many for axis in (1, 0)], 1)
    held = np.zeros(len(pixels), int)
    np.maximum.at(held, group[ends], contact[ends])
    merged = []
    for e in kept:
        a, b = int(group[e.a]), int(group[e.b])
        if a == b and _length(e.points) < 12:
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
        if contact[node]:
            continue
        headings = [_heading(edges[k].points[::-1] if last else edges[k].points) for k, last in meeting]
        limit = _SMOOTH_TURN if len(meeting) > 2 else _CORNER
        turns = sorted(
            (float(np.degrees(np.arccos(np.clip(-headings[i] @ headings[j], -1, 1)))), i, j)
            for i in range(len(meeting)) for j in range(i)
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
        strokes.append(Stroke(part, thickness, on, places[near]))
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


def find_skeleton(mask: Array) -> Array:
    """The lines of the mask, one pixel thick, bool [128, 512]."""
    return skeletonize(mask)
