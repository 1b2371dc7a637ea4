"""Judges a picture of a bridge by structural mechanics: verdict A, B or C, with reasons in words.

`analyse` reads the lines of the picture (skeleton.py), names the members (recognise.py), loads them as a plane frame
(model.py, frame.py) and judges what it sees. A: stands as drawn. B: stands after a repair that the reasons name.
C: does not stand, or is no bridge. Stays, cables and hangers pull only, so a cable without a tower or an anchor, a
stay that ends in the air and a hanger from nothing carry nothing, and what they should have carried shows.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bridge_ebm import model as modelling
from bridge_ebm import recognise, skeleton
from bridge_ebm.frame import Solution
from bridge_ebm.model import Model
from bridge_ebm.recognise import Member
from bridge_ebm.skeleton import METRES, Deck, Ink

_GAP = 6  # pixels: a longer break in the deck is a broken deck
_COVER = 0.97
_SPACING = 200.0  # metres between supports on the ground; the widest main span of the eight types is 188 m
_GIRDER = 160.0  # metres that the deck spans alone at most: the beams of the data set reach 150 m
_RELIEF = 0.4  # share of its bending that the structure over or under a longer span must take off the deck
_GAIN = 1.5  # decades by which the supports must stiffen the bare deck
_SHARE = 0.60  # of the drawn length must carry load
_FLOATING = 12  # pixels of ink
_STUMP = 8.0  # pixels: shorter loose ends are blemishes of the picture
_IDLE_PART = 0.6  # of a member's length: more and the member as a whole carries nothing
_IDLE_SHARE = 0.3  # of all length: a full load leaves some diagonals slack, not more

Array = np.ndarray


class Force(NamedTuple):
    """One straight piece of the frame: where it is in canvas pixels, unloaded and loaded, and its axial force in N.

    Tension is positive; `idle` pieces carry next to nothing.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    moved_start: tuple[float, float]
    moved_end: tuple[float, float]
    axial: float
    idle: bool
    kind: str


class Support(NamedTuple):
    """Where the bridge stands: "ground" or "abutment", canvas pixels, and metres from the middle of the canvas."""

    kind: str
    x: float
    y: float
    metres: float


class Analysis(NamedTuple):
    """What `analyse` found. Lengths in metres; shares from 0 to 1; every figure is finite.

    `gain`: decades by which the structure is stiffer than the deck alone between its ends. `axial_share`: of the
    strain energy under a full deck load, the part in axial force; arches, cables and stays that work have more than
    half, girders next to none. `relief`: the part of the deck's bending that arches, cables and stays take off it in
    the span where they take least, among those longer than a girder spans alone (1: there is none). `spacing`: of
    neighbouring supports. `floating`: pieces joined to nothing; `dangling`: members with an end in the air; `gaps`:
    blanks that were bridged; `idle_share`: of the length, in members that carry nothing. `symmetry`: share of the ink
    that mirrors onto itself. `noise`: grey level of the ground. `confidence`: mean over the members by length.
    """

    verdict: str
    reasons: tuple[str, ...]
    gain: float = 0.0
    axial_share: float = 0.0
    relief: float = 1.0
    deflection: float = 0.0
    supports: tuple[Support, ...] = ()
    spacing: tuple[float, ...] = ()
    floating: int = 0
    dangling: int = 0
    gaps: int = 0
    load_bearing_share: float = 0.0
    idle_share: float = 0.0
    symmetry: float = 0.0
    noise: float = 0.0
    confidence: float = 0.0
    members: tuple[Member, ...] = ()
    forces: tuple[Force, ...] = ()


class _Case(NamedTuple):
    """All that was computed for one picture."""

    ink: Ink
    deck: Deck
    members: list[Member]
    model: Model
    solution: Solution
    alone: Solution


def analyse(image: Array) -> Analysis:
    """Judge one picture, bright lines on black: uint8, or floats in [-1, 1] or [0, 1], [H, W] or [H, W, 1].

    Any size from 8 x 8; it is read as 300 m of deck on 475 of 512 columns, whatever its shape. Raises `InputError`
    (a ValueError) on anything else. Pictures that cannot be a bridge are verdict C, never an error.
    """
    grey, enlarged = skeleton.canvas(image)
    ink = skeleton.find_ink(grey, enlarged)
    if not ink.mask.any():
        return _refused(ink, "the picture is empty")
    lines = skeleton.find_skeleton(ink.mask)
    fault = skeleton.trouble(ink, lines)
    if fault:
        return _refused(ink, f"no bridge: {fault}")
    deck = skeleton.find_deck(ink.mask)
    if deck is None:
        return _refused(ink, "no deck: nothing level runs across the middle of the picture")
    uprights = skeleton.find_uprights(ink.mask, deck)
    strokes = skeleton.find_strokes(ink.mask, lines, deck, uprights)
    members = recognise.recognise(strokes, uprights, ink, deck)
    model = modelling.build(members, deck)
    solution = modelling.solve(model)
    alone = modelling.girder_alone(model, members) if not solution.mechanism else solution
    return _judged(_Case(ink, deck, members, model, solution, alone))


def _refused(ink: Ink, reason: str) -> Analysis:
    return Analysis("C", (reason,), symmetry=_symmetry(ink.mask), noise=ink.noise)


def _judged(case: _Case) -> Analysis:
    """Verdict and figures of a picture with a deck."""
    model, solution, deck = case.model, case.solution, case.deck
    force = modelling.pulls(model, solution)
    idle = modelling.idle(model, force)
    size = np.hypot(*(model.nodes[model.ends[:, 0]] - model.nodes[model.ends[:, 1]]).T) * METRES
    loose = _loose(case)
    floating, adrift = _floating(case)
    total = float(size.sum()) + adrift * METRES
    supports = _supports(case)
    spacing = tuple(float(s) for s in np.diff([s.metres for s in supports]))
    energy = float(solution.stretched.sum()), float(solution.bent.sum())
    weight = np.array([recognise.length(m.points) for m in case.members])
    stands = not solution.mechanism
    sag = float(-solution.moved[list(model.deck_nodes), 1].min()) if stands else 0.0
    figures = Analysis(
        verdict="A",
        reasons=(),
        gain=_gain(sag, deck) if stands else 0.0,
        axial_share=energy[0] / sum(energy) if stands else 0.0,
        relief=_relief(case)[0] if stands else 0.0,
        deflection=sag,
        supports=supports,
        spacing=spacing,
        floating=floating,
        dangling=len(loose),
        gaps=sum(m.gaps for m in case.members),
        load_bearing_share=float(size[~idle].sum()) / total if stands else 0.0,
        idle_share=float(size[idle].sum()) / total,
        symmetry=_symmetry(case.ink.mask),
        noise=case.ink.noise,
        confidence=float(weight @ [m.confidence for m in case.members] / weight.sum()) if len(weight) else 1.0,
        members=tuple(case.members),
        forces=_forces(case, force, idle),
    )
    fatal = _fatal(case, figures)
    if fatal:
        return figures._replace(verdict="C", reasons=tuple(fatal))
    repairs = _repairs(case, figures, loose, idle, size)
    if repairs:
        return figures._replace(verdict="B", reasons=tuple(repairs))
    return figures._replace(reasons=(_praise(figures),))


def _place(pixel: float) -> str:
    """A place along the deck in words."""
    x = (pixel - 255.5) * METRES
    return f"{abs(x):.0f} m {'left' if x < 0 else 'right'} of mid-span" if abs(x) >= 1 else "mid-span"


def _fatal(case: _Case, of: Analysis) -> list[str]:
    """Why the picture cannot stand, however it is repaired."""
    deck, why = case.deck, []
    if deck.gap > _GAP or deck.cover < _COVER:
        why.append(f"the deck is broken: {deck.gap * METRES:.0f} m are missing in one place")
    for x, side in ((deck.left, "left"), (511 - deck.right, "right")):
        if x > modelling.ABUTMENT:
            why.append(f"the deck stops in the air on the {side}, {x * METRES:.0f} m from the edge")
    if not any(s.kind == "ground" for s in of.supports):
        why.append("nothing stands on the ground")
    elif max(of.spacing, default=0) > _SPACING:
        why.append(f"{max(of.spacing):.0f} m between two supports (at most {_SPACING:.0f})")
    if why:
        return why
    if case.solution.mechanism:
        x, _ = case.model.nodes[list(case.solution.mechanism)].mean(0)
        return [f"a mechanism: {len(case.solution.mechanism)} joints about {_place(float(x))} move freely"]
    relief, span, left = _relief(case)
    if relief < _RELIEF:
        why.append(f"the deck spans {span:.0f} m from {_place(left)} and what is drawn there takes only "
                   f"{max(relief, 0):.0%} of its bending")
    if of.gain < _GAIN:
        why.append(f"too soft: the supports stiffen the bare deck by {of.gain:.1f} decades, {_GAIN} are needed")
    if of.load_bearing_share < _SHARE:
        why.append(f"only {of.load_bearing_share:.0%} of what is drawn carries load")
    return why


def _repairs(case: _Case, of: Analysis, loose: list[int], idle: Array, size: Array) -> list[str]:
    """What must be mended or removed before the picture stands as drawn."""
    why = []
    if of.floating:
        why.append(f"{of.floating} piece{'s' * (of.floating > 1)} joined to nothing, to be removed")
    for k in loose[:3]:
        m = case.members[k]
        x = m.at[m.ends.index("free"), 0]
        why.append(f"a {m.kind} ends in the air, {_place(float(x))}")
    if len(loose) > 3:
        why.append(f"{len(loose) - 3} more members end in the air")
    if of.gaps:
        why.append(f"{of.gaps} gap{'s' * (of.gaps > 1)} in the members, to be closed")
    for k, m in enumerate(case.members):
        mine = case.model.owner == k
        if m.kind in ("cable", "arch") and k not in loose and size[idle & mine].sum() > _IDLE_PART * size[mine].sum():
            x = m.points[len(m.points) // 2, 0]
            why.append(f"the {m.kind} {_place(float(x))} carries nothing: nothing pulls or presses against it")
    if not why and of.idle_share > _IDLE_SHARE:
        why.append(f"{of.idle_share:.0%} of what is drawn carries nothing under a full load")
    return why


def _praise(of: Analysis) -> str:
    how = "by axial force" if of.axial_share > 0.3 else "mostly by bending"
    return f"stands as drawn on {len(of.supports)} supports, {max(of.spacing):.0f} m at most between them, {how}"


def _loose(case: _Case) -> list[int]:
    """Members with an end in the air, tops of towers apart."""
    return [k for k, m in enumerate(case.members)
            if "free" in m.ends and not (m.kind == "tower" and m.ends[1] != "free" and m.ends.count("free") == 1)
            and recognise.length(m.points) > _STUMP]


def _floating(case: _Case) -> tuple[int, float]:
    """How many pieces of ink are joined to nothing, and how long they are in pixels."""
    pieces, _ = ndimage.label(case.ink.whole, np.ones((3, 3)))
    x = np.arange(round(case.deck.left), round(case.deck.right) + 1)
    on = np.unique(pieces[np.clip(np.rint(case.deck.row + case.deck.slope * x).astype(int), 0, 127), x])
    count, adrift = 0, 0.0
    for k, box in enumerate(ndimage.find_objects(pieces), 1):
        if k not in on and (pieces[box] == k).sum() > _FLOATING:
            count += 1
            adrift += max(s.stop - s.start for s in box)
    return count, adrift


def _supports(case: _Case) -> tuple[Support, ...]:
    deck, found = case.deck, []
    for x in (deck.left, deck.right):
        if not modelling.ABUTMENT < x < 511 - modelling.ABUTMENT:
            found.append(Support("abutment", float(x), float(deck.at(x)), float((x - 255.5) * METRES)))
    for m in case.members:
        for end in (0, 1):
            x, y = (float(v) for v in m.at[end])
            if m.ends[end] == "ground" and all(abs(x - s.x) > 6 or s.kind != "ground" for s in found):
                found.append(Support("ground", x, y, (x - 255.5) * METRES))
    return tuple(sorted(found, key=lambda s: s.x))


def _gain(sag: float, deck: Deck) -> float:
    """Decades between the deflection of the bare deck between its ends, 5 w L^4 / 384 EI, and `sag`."""
    span = (deck.right - deck.left) * METRES
    bare = 5 * modelling.LOAD * span**4 / (384 * modelling.GIRDER)
    return float(np.log10(bare / max(sag, 1e-4)))


def _relief(case: _Case) -> tuple[float, float, float]:
    """The least relief of the deck's bending among the spans longer than a girder manages; that span; where it starts.

    Spans run between the supports that the deck has without any arch, cable or stay.
    """
    model, members = case.model, case.members
    props = {k for k, m in enumerate(members) if m.kind in ("pier", "leg") and "ground" in m.ends}
    beam = model.owner[model.live] == -1
    alone_owner = np.array([k for k in model.owner[model.live] if k < 0 or members[k].kind in ("pier", "leg", "tower")])
    x = model.nodes[model.ends[model.live][beam]].mean(1)[:, 0]
    with_, without = (np.abs(m).max(1) for m in (case.solution.moment[beam], case.alone.moment[alone_owner == -1]))
    at = {int(n) for k in props for n in model.ends[model.owner == k].ravel()}
    stops = sorted({float(model.nodes[n, 0]) for n in at & set(model.deck_nodes)} | {case.deck.left, case.deck.right})
    worst = (1.0, 0.0, 0.0)
    for a, b in zip(stops, stops[1:], strict=False):
        inside = (x > a + 0.15 * (b - a)) & (x < b - 0.15 * (b - a))
        if (b - a) * METRES > _GIRDER and inside.any():
            worst = min(worst, (1 - float(with_[inside].max() / max(without[inside].max(), 1.0)), (b - a) * METRES, a))
    return worst


def _symmetry(mask: Array) -> float:
    """Share of the ink that mirrors onto ink within a pixel, about the best upright axis near the middle."""
    wide = ndimage.maximum_filter(mask, 3)
    shares = [0.0]
    for shift in range(-4, 5):
        mirrored = np.roll(mask[:, ::-1], shift, 1)
        shares.append(float((mirrored & wide).sum() / max(mask.sum(), 1)))
    return max(shares)


def _forces(case: _Case, force: Array, idle: Array) -> tuple[Force, ...]:
    model = case.model
    nodes = model.nodes
    moved = nodes + case.solution.moved[:, :2] * (1, -1) / METRES
    kinds = ["deck" if k < 0 else case.members[k].kind for k in model.owner]
    return tuple(
        Force((float(nodes[a][0]), float(nodes[a][1])), (float(nodes[b][0]), float(nodes[b][1])),
              (float(moved[a][0]), float(moved[a][1])), (float(moved[b][0]), float(moved[b][1])), float(n), bool(rests), kind)
        for (a, b), n, rests, kind in zip(model.ends, force, idle, kinds, strict=True)
    )
