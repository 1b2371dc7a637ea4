"""Figures of a solved bridge: supports, relief of the deck, symmetry, floating pieces, and its pieces with forces."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bridge_ebm import modelling
from bridge_ebm.frame import Solution
from bridge_ebm.ink import METRES, Deck, Ink, grown
from bridge_ebm.member import ABUTMENT, Member
from bridge_ebm.modelling import Model

_GIRDER = 160.0  # metres that the deck spans alone at most: the beams of the data set reach 150 m
_FLOATING = 12  # pixels of ink

Array = np.ndarray


class Case(NamedTuple):
    """All that was computed for one picture."""

    ink: Ink
    deck: Deck
    members: list[Member]
    model: Model
    solution: Solution
    alone: Solution


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


def floating_pieces(case: Case) -> tuple[int, float]:
    """How many pieces of ink are joined to nothing, and how long they are in pixels."""
    pieces = np.zeros(case.ink.whole.shape, np.int32)
    ndimage.label(case.ink.whole, np.ones((3, 3)), output=pieces)
    x = np.arange(round(case.deck.left), round(case.deck.right) + 1)
    on = np.unique(pieces[np.clip(np.rint(case.deck.row + case.deck.slope * x).astype(int), 0, 127), x])
    count, adrift = 0, 0.0
    for k, box in enumerate(ndimage.find_objects(pieces), 1):
        if k not in on and (pieces[box] == k).sum() > _FLOATING:
            count += 1
            adrift += max(s.stop - s.start for s in box)
    return count, adrift


def find_supports(case: Case) -> tuple[Support, ...]:
    """Feet on the ground and ends of the deck on the banks, from left to right."""
    deck, found = case.deck, []
    for x in (deck.left, deck.right):
        if not ABUTMENT < x < 511 - ABUTMENT:
            found.append(Support("abutment", float(x), float(deck.at(x)), float((x - 255.5) * METRES)))
    for m in case.members:
        for end in (0, 1):
            x, y = (float(v) for v in m.at[end])
            if m.ends[end] == "ground" and all(abs(x - s.x) > 6 or s.kind != "ground" for s in found):
                found.append(Support("ground", x, y, (x - 255.5) * METRES))
    return tuple(sorted(found, key=lambda s: s.x))


def stiffness_gain(sag: float, deck: Deck) -> float:
    """Decades between the deflection of the bare deck between its ends, 5 w L^4 / 384 EI, and `sag`."""
    span = (deck.right - deck.left) * METRES
    bare = 5 * modelling.LOAD * span**4 / (384 * modelling.GIRDER)
    return float(np.log10(bare / max(sag, 1e-4)))


def least_relief(case: Case) -> tuple[float, float, float]:
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


def mirror_share(mask: Array) -> float:
    """Share of the ink that mirrors onto ink within a pixel, about the best upright axis near the middle."""
    wide = grown(mask)
    shares = [0.0]
    for shift in range(-4, 5):
        mirrored = np.roll(mask[:, ::-1], shift, 1)
        shares.append(float((mirrored & wide).sum() / max(mask.sum(), 1)))
    return max(shares)


def pieces(case: Case, force: Array, idle: Array) -> tuple[Force, ...]:
    """The frame piece by piece, with the axial force `force` [M] in N and whether it is `idle` bool [M]."""
    model = case.model
    nodes = model.nodes
    moved = nodes + case.solution.moved[:, :2] * (1, -1) / METRES
    kinds = ["deck" if k < 0 else case.members[k].kind for k in model.owner]
    return tuple(
        Force(
            (float(nodes[a][0]), float(nodes[a][1])),
            (float(nodes[b][0]), float(nodes[b][1])),
            (float(moved[a][0]), float(moved[a][1])),
            (float(moved[b][0]), float(moved[b][1])),
            float(n),
            bool(rests),
            kind,
        )
        for (a, b), n, rests, kind in zip(model.ends, force, idle, kinds, strict=True)
    )
