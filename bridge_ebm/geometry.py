"""Builders of the eight bridge sub-types: dimensions in metres in, lines and arcs out.

Every kind of bridge has a frozen record of its dimensions, and `members` turns a record into what `raster.draw` paints.
The same records serve the paper's pictures (`bridges.PAPER`) and the freely varied ones (`varied.py`).

Metres: x from mid-span to the right, y up from the centre line of the deck. All decks run from x = -150 to 150.
"""

import itertools
import math
from dataclasses import dataclass

from bridge_ebm.raster import Member, Point

DECK_END = 150.0


@dataclass(frozen=True)
class Beam:
    """Equal-depth beam: piers at +-`pier`, feet `foot` below the deck."""

    pier: float
    foot: float


@dataclass(frozen=True)
class VPierFrame:
    """Rigid frame on V piers: apexes at +-`pier` + `offset`, `foot` below the deck, legs `reach` wide each way."""

    pier: float
    foot: float
    reach: float
    offset: float = 0.0


@dataclass(frozen=True)
class DeckArch:
    """Arch below the deck, from foot to foot of the piers, with half arches to the ends of the deck.

    `crown` is the depth of the main arch at mid-span; `side_rise` the sagitta of a half arch; `columns` and
    `side_columns` the distances of the spandrel columns from mid-span.
    """

    pier: float
    foot: float
    crown: float
    side_rise: float
    columns: tuple[float, ...]
    side_columns: tuple[float, ...]


@dataclass(frozen=True)
class ThroughArch:
    """Three arches above the deck, `rise` and `side_rise` high over springings `drop` below the deck's centre line.

    `hangers` and `side_hangers` are distances from mid-span.
    """

    pier: float
    foot: float
    rise: float
    side_rise: float
    hangers: tuple[float, ...]
    side_hangers: tuple[float, ...]
    drop: float = 0.0


@dataclass(frozen=True)
class CableStayed:
    """Two towers of height `tower`; stay j of each side joins `heights[j]` on the tower to `reaches[j]` along the deck.

    Equal steps in `heights` and `reaches` with one ratio make a harp, closely set heights a fan.
    """

    pier: float
    foot: float
    tower: float
    heights: tuple[float, ...]
    reaches: tuple[float, ...]


@dataclass(frozen=True)
class Suspension:
    """Main cable over towers of height `tower`, passing them at `peak` and mid-span at `low` above the deck.

    `side_sag` is the sagitta of the side cables, which start `anchor` above the deck's ends. `hangers` are the
    distances from mid-span of the vertical hangers, or of the deck nodes of diagonal ones. Diagonal hangers meet
    `node` above the deck and at the share `top` of the cable's height; `stub` is how far along the deck the last of
    them reaches (0: none). `offsets` move main cable, side cables, main hangers and side hangers to the right (the
    author's are up to 0.2 m off the axis of his towers).
    """

    pier: float
    foot: float
    tower: float
    peak: float
    low: float
    side_sag: float
    anchor: float
    hangers: tuple[float, ...]
    diagonal: bool = False
    stub: float = 0.0
    node: float = 0.0
    top: float = 1.0
    offsets: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


Dimensions = Beam | VPierFrame | DeckArch | ThroughArch | CableStayed | Suspension

DECK = Member("deck", (-DECK_END, 0.0), (DECK_END, 0.0))


def mirrored(member: Member) -> Member:
    """`member` on the other side of mid-span, still starting at its left end."""
    (ax, ay), (bx, by) = member.start, member.end
    if ax == bx:
        return member._replace(start=(-ax, ay), end=(-bx, by))
    return member._replace(start=(-bx, by), end=(-ax, ay))


def _moved(member: Member, by: float) -> Member:
    start, end = member.start, member.end
    return member._replace(start=(start[0] + by, start[1]), end=(end[0] + by, end[1]))


def _both(*members: Member) -> tuple[Member, ...]:
    """Every member and its mirror image; a member on the axis of symmetry only once."""
    pairs = [(member, mirrored(member)) for member in members]
    return tuple(member for pair in pairs for member in dict.fromkeys(pair))


def height_at(member: Member, x: float) -> float:
    """Y (metres) of the centre line of a member at `x` (metres)."""
    (ax, ay), (bx, by) = member.start, member.end
    if member.rise == 0:
        return ay + (x - ax) * (by - ay) / (bx - ax)
    length = math.hypot(bx - ax, by - ay)
    radius = (length**2 / 4 + member.rise**2) / (2 * member.rise)  # signed: negative for a sagging cable
    back = (member.rise - radius) / length
    cx, cy = (ax + bx) / 2 - (by - ay) * back, (ay + by) / 2 + (bx - ax) * back
    return cy + math.copysign(math.sqrt(max(radius**2 - (x - cx) ** 2, 0.0)), radius)


def _upright(kind: str, x: float, top: float, bottom: float) -> Member:
    return Member(kind, (x, top), (x, bottom))


def _beam(of: Beam) -> tuple[Member, ...]:
    return (*_both(_upright("pier", -of.pier, 0, -of.foot)), DECK)


def _v_pier_frame(of: VPierFrame) -> tuple[Member, ...]:
    legs = []
    for apex in (of.offset - of.pier, of.offset + of.pier):
        foot = (apex, -of.foot)
        legs += [Member("leg", (apex - of.reach, 0), foot), Member("leg", foot, (apex + of.reach, 0))]
    return (*legs, DECK)


def _deck_arch(of: DeckArch) -> tuple[Member, ...]:
    spring = (-of.pier, -of.foot)
    arch = Member("arch", spring, (of.pier, -of.foot), of.foot - of.crown)
    side = Member("side_arch", (-DECK_END, 0), spring, of.side_rise)
    columns = [_upright("column", -x, 0, height_at(arch, -x)) for x in of.columns]
    columns += [_upright("column", -x, 0, height_at(side, -x)) for x in of.side_columns]
    pier = _upright("pier", -of.pier, 0, -of.foot)
    return (*_both(*columns), DECK, *_both(pier), arch, *_both(side))


def _through_arch(of: ThroughArch) -> tuple[Member, ...]:
    arch = Member("arch", (-of.pier, -of.drop), (of.pier, -of.drop), of.rise + of.drop)
    side = Member("arch", (-DECK_END, -of.drop), (-of.pier, -of.drop), of.side_rise + of.drop)
    hangers = [_upright("hanger", -x, height_at(arch, -x), 0) for x in of.hangers]
    hangers += [_upright("hanger", -x, height_at(side, -x), 0) for x in of.side_hangers]
    return (*_both(*hangers), DECK, arch, *_both(side, _upright("pier", -of.pier, 0, -of.foot)))


def _cable_stayed(of: CableStayed) -> tuple[Member, ...]:
    stays = []
    for height, reach in zip(of.heights, of.reaches, strict=True):
        head = (-of.pier, height)
        stays += [Member("stay", (-of.pier - reach, 0), head), Member("stay", head, (-of.pier + reach, 0))]
    return (DECK, *_both(_upright("tower", -of.pier, of.tower, -of.foot)), *_both(*stays))


def _suspension(of: Suspension) -> tuple[Member, ...]:
    peak = (-of.pier, of.peak)
    cable = Member("cable", peak, (of.pier, of.peak), of.low - of.peak)
    side = Member("cable", (-DECK_END, of.anchor), peak, -of.side_sag)
    hang = _diagonals if of.diagonal else _verticals
    tower = _upright("tower", -of.pier, of.tower, -of.foot)
    main_cable, side_cable, main_hanger, side_hanger = of.offsets
    hangers = [
        _moved(hanger, main_hanger if min(abs(hanger.start[0]), abs(hanger.end[0])) < of.pier else side_hanger)
        for hanger in hang(of, cable, side)
    ]
    sides = [_moved(half, side_cable) for half in _both(side)]
    return (DECK, *_both(tower), *hangers, _moved(cable, main_cable), *sides)


def _verticals(of: Suspension, cable: Member, side: Member) -> tuple[Member, ...]:
    carrier = {x: cable if x < of.pier else side for x in of.hangers}
    return _both(*(_upright("hanger", -x, height_at(on, -x), 0) for x, on in carrier.items()))


def _diagonals(of: Suspension, cable: Member, side: Member) -> tuple[Member, ...]:
    """The zigzag between the deck nodes and the cable midway between them, and the stubs at its two ends."""

    def on_cable(x: float) -> Point:
        return x, of.top * height_at(side if abs(x) > of.pier else cable, -abs(x))

    nodes = sorted({-x for x in of.hangers} | set(of.hangers))
    lines = []
    for left, right in itertools.pairwise(nodes):
        top = on_cable((left + right) / 2)
        lines += [Member("hanger", (left, of.node), top), Member("hanger", top, (right, of.node))]
    stubs = _both(Member("hanger", on_cable(nodes[0] - of.stub), (nodes[0], of.node))) if of.stub else ()
    return (*lines, *stubs)


def members(of: Dimensions) -> tuple[Member, ...]:
    """Lines and arcs of the bridge of the dimensions `of`, in the order in which they are painted."""
    match of:
        case Beam():
            return _beam(of)
        case VPierFrame():
            return _v_pier_frame(of)
        case DeckArch():
            return _deck_arch(of)
        case ThroughArch():
            return _through_arch(of)
        case CableStayed():
            return _cable_stayed(of)
        case Suspension():
            return _suspension(of)
