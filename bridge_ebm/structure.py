"""Judges a picture of a bridge by structural mechanics: verdict A, B or C, with reasons in words.

`analyse` reads the lines of the picture (skeleton.py), names the members (recognise.py), loads them as a plane frame
(modelling.py, frame.py) and judges what it sees. A: stands as drawn. B: stands after a repair that the reasons name.
C: does not stand, or is no bridge. Stays, cables and hangers pull only, so a cable without a tower or an anchor, a
stay that ends in the air and a hanger from nothing carry nothing, and what they should have carried shows.
"""

from typing import NamedTuple

import numpy as np

from bridge_ebm import ink as inking
from bridge_ebm import modelling, recognise, skeleton
from bridge_ebm.ink import METRES, Ink
from bridge_ebm.leaning import find_bars
from bridge_ebm.measures import (
    Case,
    Force,
    Support,
    find_supports,
    floating_pieces,
    least_relief,
    mirror_share,
    pieces,
    stiffness_gain,
)
from bridge_ebm.member import ABUTMENT, Member
from bridge_ebm.rejoin import rejoined
from bridge_ebm.skeleton import length
from bridge_ebm.towers import place, pulled_sides, useless_towers
from bridge_ebm.truss import missing_webs

_MOST_STROKES = 140  # the densest fan of stays has some 90 lines, most of them scraps
_GAP = 6  # pixels: a longer break in the deck is a broken deck
_COVER = 0.97
_SPACING = 200.0  # metres between supports on the ground; the widest main span of the eight types is 188 m
_RELIEF = 0.25  # share of its bending that the structure over or under a longer span must take off the deck
_GAIN = 1.5  # decades by which the supports must stiffen the bare deck
_SHARE = 0.60  # of the drawn length must carry load
_STUMP = 8.0  # pixels: shorter loose ends are blemishes of the picture
_OVERHANG = 20.0  # pixels, of the chord of a truss: about a panel beyond its last joint
_BOW = 0.04  # share of its length: a cable or arch this curved must carry something along it
_TOWER_BENDING = 80e6  # N m: a steel box 3 m square of 30 mm plates at 220 MPa
_HELD_UP = 8.0  # pixels below the deck where an arch starts that carries it by its other end
_IDLE_PART = 0.6  # of a member's length: more and the member as a whole carries nothing
_IDLE_SHARE = 0.3  # of all length: a full load leaves some diagonals slack, not more

Array = np.ndarray


class Analysis(NamedTuple):
    """What `analyse` found. Lengths in metres; shares from 0 to 1; every figure is finite.

    `gain`: decades by which the structure is stiffer than the deck alone between its ends. `axial_share`: of the
    strain energy under a full deck load, the part in axial force; arches, cables and stays that work have a quarter
    and more, girders next to none. `relief`: the part of the deck's bending that arches, cables and stays take off it
    in the span where they take least, among those longer than a girder spans alone (1: there is none). `spacing`: of
    neighbouring supports. `floating`: pieces joined to nothing; `dangling`: members with an end in the air; `gaps`:
    blanks that were bridged; `idle_share`: of the length, in members that carry nothing. `symmetry`: share of the ink
    that mirrors onto itself. `noise`: of the ground, share of white. `confidence`: mean over the members by length.
    `deflection`: the deck's largest, under 100 kN/m along it (`modelling.LOAD`). `load_bearing_share`: of all length,
    what carries load, 0 where nothing stands. `supports`, `members`, `forces`: what was recognised, and what is in it.
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


def analyse(image: Array) -> Analysis:
    """Judge one picture, bright lines on black: uint8, or floats in [-1, 1] or [0, 1], [H, W] or [H, W, 1].

    Any size from 8 x 8; it is read as 300 m of deck on 475 of 512 columns, whatever its shape. Raises `InputError`
    (a ValueError) on anything else. Pictures that cannot be a bridge are verdict C, never an error.
    """
    grey, enlarged = inking.canvas(image)
    ink = inking.find_ink(grey, enlarged)
    if not ink.mask.any():
        return _refused(ink, "the picture is empty")
    lines = inking.find_skeleton(ink.mask)
    fault = inking.trouble(ink, lines)
    if fault:
        return _refused(ink, f"no bridge: {fault}")
    deck = inking.find_deck(ink.mask)
    if deck is None:
        return _refused(ink, "no deck: nothing level runs across the middle of the picture")
    uprights = find_bars(ink.mask, deck)
    strokes = skeleton.find_strokes(ink.mask, lines, deck, uprights)
    if strokes is None or len(strokes) > _MOST_STROKES:
        return _refused(ink, "no bridge: the lines cross and fork too often")
    members = recognise.recognise(rejoined(strokes, ink.mask), uprights, ink, deck)
    model = modelling.build(members, deck)
    solution = modelling.solve(model, members)
    alone = modelling.girder_alone(model, members) if not solution.mechanism else solution
    return _judged(Case(ink, deck, members, model, solution, alone))


def _refused(ink: Ink, reason: str) -> Analysis:
    return Analysis("C", (reason,), symmetry=mirror_share(ink.mask), noise=ink.noise)


def _judged(case: Case) -> Analysis:
    """Verdict and figures of a picture with a deck."""
    model, solution, deck = case.model, case.solution, case.deck
    force = modelling.pulls(model, solution)
    idle = modelling.idle(model, force)
    size = np.hypot(*(model.nodes[model.ends[:, 0]] - model.nodes[model.ends[:, 1]]).T) * METRES
    loose = _loose(case)
    floating, adrift = floating_pieces(case)
    total = float(size.sum()) + adrift * METRES
    supports = find_supports(case)
    spacing = tuple(float(s) for s in np.diff([s.metres for s in supports]))
    energy = float(solution.stretched.sum()), float(solution.bent.sum())
    weight = np.array([length(m.points) for m in case.members])
    stands = not solution.mechanism
    sag = float(-solution.moved[list(model.deck_nodes), 1].min()) if stands else 0.0
    figures = Analysis(
        verdict="A",
        reasons=(),
        gain=stiffness_gain(sag, deck) if stands else 0.0,
        axial_share=energy[0] / sum(energy) if stands else 0.0,
        relief=least_relief(case)[0] if stands else 0.0,
        deflection=sag,
        supports=supports,
        spacing=spacing,
        floating=floating,
        dangling=len(loose),
        gaps=sum(m.gaps for m in case.members),
        load_bearing_share=float(size[~idle].sum()) / total if stands else 0.0,
        idle_share=float(size[idle].sum()) / total,
        symmetry=mirror_share(case.ink.mask),
        noise=case.ink.noise,
        confidence=float(weight @ [m.confidence for m in case.members] / weight.sum()) if len(weight) else 1.0,
        members=tuple(case.members),
        forces=pieces(case, force, idle),
    )
    fatal = _fatal(case, figures)
    if fatal:
        return figures._replace(verdict="C", reasons=tuple(fatal))
    repairs = _repairs(case, figures, loose, idle, size)
    if repairs:
        return figures._replace(verdict="B", reasons=tuple(repairs))
    return figures._replace(reasons=(_praise(figures),))


def _fatal(case: Case, of: Analysis) -> list[str]:
    """Why the picture cannot stand, however it is repaired."""
    deck, why = case.deck, []
    if deck.gap > _GAP or deck.cover < _COVER:
        missing = f"{deck.gap * METRES:.0f} m are missing in one place"
        why.append(f"the deck is broken: {missing if deck.gap > _GAP else f'{1 - deck.cover:.0%} of it are missing'}")
    for x, side in ((deck.left, "left"), (511 - deck.right, "right")):
        if x > ABUTMENT:
            why.append(f"the deck stops in the air on the {side}, {x * METRES:.0f} m from the edge")
    if not any(s.kind == "ground" for s in of.supports):
        why.append("nothing stands on the ground")
    elif max(of.spacing, default=0) > _SPACING:
        why.append(f"{max(of.spacing):.0f} m between two supports (at most {_SPACING:.0f})")
    if why:
        return why
    if case.solution.mechanism:
        x, _ = case.model.nodes[list(case.solution.mechanism)].mean(0)
        number = len(case.solution.mechanism)
        moving = "1 joint moves" if number == 1 else f"{number} joints move"
        return [f"a mechanism: {moving} freely about {place(float(x))}"]
    relief, span, left = least_relief(case)
    if relief < _RELIEF:
        why.append(
            f"the deck spans {span:.0f} m from {place(left)} and what is drawn there takes only "
            f"{max(relief, 0):.0%} of its bending"
        )
    if of.gain < _GAIN:
        why.append(f"too soft: the supports stiffen the bare deck by {of.gain:.1f} decades, {_GAIN} are needed")
    if of.load_bearing_share < _SHARE:
        why.append(f"only {of.load_bearing_share:.0%} of what is drawn carries load")
    return why


def _repairs(case: Case, of: Analysis, loose: list[int], idle: Array, size: Array) -> list[str]:
    """What must be mended or removed before the picture stands as drawn."""
    why = []
    if of.floating:
        why.append(f"{of.floating} piece{'s' * (of.floating > 1)} joined to nothing, to be removed")
    for k in loose[:3]:
        m = case.members[k]
        x = m.at[m.ends.index("free"), 0]
        why.append(f"{'an' if m.kind[0] in 'aeiou' else 'a'} {m.kind} ends in the air, {place(float(x))}")
    if len(loose) > 3:
        why.append(f"{len(loose) - 3} more members end in the air")
    if of.gaps:
        why.append(f"{of.gaps} gap{'s' * (of.gaps > 1)} in the members, to be closed")
    for k, m in enumerate(case.members):
        mine, x = case.model.owner == k, float(m.points[len(m.points) // 2, 0])
        if m.kind not in ("cable", "arch") or k in loose:
            continue
        if size[idle & mine].sum() > _IDLE_PART * size[mine].sum():
            why.append(f"the {m.kind} {place(x)} carries nothing: nothing pulls or presses against it")
        elif "deck" in m.ends and m.kind == "arch" and float(m.at[:, 1].max()) > case.deck.at(x) + _HELD_UP:
            continue  # a half arch from the ground to the deck holds that up with its end
        elif abs(m.bow) > _BOW * length(m.points) and not any(k in other.ends for other in case.members):
            why.append(f"the {m.kind} {place(x)} is curved, but nothing hangs from it or stands on it")
    for x, hole in missing_webs(case.members)[:3]:
        why.append(f"a truss lacks a diagonal {place(x)}: there is none over {hole * METRES:.0f} m")
    why += useless_towers(case.members) + _pulled_over(case)
    if not why and of.idle_share > _IDLE_SHARE:
        why.append(f"{of.idle_share:.0%} of what is drawn carries nothing under a full load")
    return why


def _pulled_over(case: Case) -> list[str]:
    """Towers that cables or stays pull to one side only, harder than they can take by bending."""
    why = []
    for k, tower in enumerate(case.members):
        bent = np.abs(case.solution.moment[case.model.owner[case.model.live] == k]).max(initial=0.0)
        if tower.kind == "tower" and len(pulled_sides(case.members, k)) == 1 and bent > _TOWER_BENDING:
            where = place(float(tower.at[0, 0]))
            why.append(f"the tower {where} is pulled to one side only, which bends it by {bent / 1e6:.0f} MNm")
    return why


def _praise(of: Analysis) -> str:
    how = "by axial force" if of.axial_share > 0.3 else "mostly by bending"
    return f"stands as drawn on {len(of.supports)} supports, {max(of.spacing):.0f} m at most between them, {how}"


def _loose(case: Case) -> list[int]:
    """Members with an end in the air, tops of towers apart."""
    return [
        k
        for k, m in enumerate(case.members)
        if "free" in m.ends
        and not (m.kind == "tower" and m.ends[1] != "free" and m.ends.count("free") == 1)
        and length(m.points) > (_OVERHANG if m.kind == "chord" else _STUMP)
    ]
