"""Recognised members to a plane frame under a full deck load, and what each member does in it."""

from typing import NamedTuple

import numpy as np

from bridge_ebm import frame
from bridge_ebm.frame import BEAM, TIE, Frame, Solution
from bridge_ebm.ink import METRES, Deck
from bridge_ebm.member import ABUTMENT, PULL_ONLY, Member

LOAD = 100e3  # N per metre of deck, its own weight and traffic
_DEAD = 0.6  # of the full load is dead weight
_E = 200e9
# Nominal sections, area m^2 and second moment m^4: what such members have in steel, not what the line is thick.
_SECTIONS = {
    "deck": (1.5, 1.3),
    "tower": (2.0, 2.0),
    "pier": (2.0, 2.0),
    "leg": (2.0, 2.0),
    "arch": (1.2, 0.3),
    "strut": (0.6, 0.05),
    "chord": (0.6, 0.05),
    "brace": (0.4, 0.02),
    "column": (0.4, 0.02),
    "cable": (0.5, 0.0),
    "stay": (0.1, 0.0),
    "hanger": (0.1, 0.0),
}
GIRDER = _E * _SECTIONS["deck"][1]  # EI of the deck, N m^2
_STEP = 13.0  # pixels between nodes of bending members
_CLOSE = 5.0  # pixels: joints closer than this along a member are one
_LIMP = 25.0  # degrees off straight that two ties alone straighten out
_SLANT = 15.0  # degrees by which a drawn tie may miss the direction that its neighbours can balance
_IDLE = 40e3  # N: a tenth of what one hanger every 4 m would carry

Array = np.ndarray


class Model(NamedTuple):
    """The frame of a picture.

    `nodes` [N, 2] canvas pixels; `ends` int [M, 2]; `owner` int [M], the recognised member, -1 for the deck;
    `live` bool [M]: False for ties that no arrangement of pulls can put to use; `frame` holds the live ones in order.
    """

    nodes: Array
    ends: Array
    owner: Array
    live: Array
    frame: Frame
    deck_nodes: tuple[int, ...]


class _Joints:
    """Numbers for points that turn out to be one."""

    def __init__(self) -> None:
        self.of: list[int] = []
        self.place: list[tuple[int, Array]] = []  # (rank, where): the firmest owner says where a joint is

    def new(self, where: Array, rank: int) -> int:
        self.of.append(len(self.of))
        self.place.append((rank, np.asarray(where, float)))
        return len(self.of) - 1

    def find(self, joint: int) -> int:
        while self.of[joint] != joint:
            joint = self.of[joint]
        return joint

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.of[b] = a
            self.place[a] = max(self.place[a], self.place[b], key=lambda item: item[0])


def _stations(members: list[Member], deck: Deck) -> tuple[_Joints, list[list[tuple[float, int]]]]:
    """Joints along every member and, last, the deck: (distance along it in pixels, joint)."""
    joints = _Joints()
    along: list[list[tuple[float, int]]] = [[] for _ in range(len(members) + 1)]
    for x in (deck.left, deck.right):
        along[-1].append((x, joints.new(np.array([x, deck.at(x)]), 9)))
    far = [np.concatenate([[0], np.cumsum(np.hypot(*np.diff(m.points, axis=0).T))]) for m in members]
    for k, member in enumerate(members):
        for end in (0, 1):
            at, by = member.at[end], member.ends[end]
            if by == "deck":
                joint = joints.new(np.array([at[0], deck.at(at[0])]), 8)
                along[-1].append((float(at[0]), joint))
            elif isinstance(by, int):
                held = members[by]
                near = int(np.hypot(*(held.points - at).T).argmin())
                joint = joints.new(held.points[near], 7 if held.kind in ("tower", "pier") else 4)
                along[by].append((float(far[by][near]), joint))
            else:
                joint = joints.new(at, 5 if by == "ground" else 1)
            along[k].append((0.0 if end == 0 else float(far[k][-1]), joint))
    for stops in along:
        stops.sort()
        for (s, a), (t, b) in zip(stops, stops[1:], strict=False):
            if t - s <= _CLOSE:
                joints.join(a, b)
    return joints, along


def build(members: list[Member], deck: Deck) -> Model:
    """The plane frame of the members and the deck, in metres, loaded along the deck."""
    joints, along = _stations(members, deck)
    ends: list[tuple[int, int]] = []
    owner: list[int] = []
    for k, stops in enumerate(along):
        deck_row = k == len(members)
        bends = deck_row or members[k].kind not in PULL_ONLY
        chain = _unique([(s, joints.find(j)) for s, j in stops])
        for (s, a), (t, b) in zip(chain, chain[1:], strict=False):
            pieces = max(round((t - s) / _STEP), 1) if bends and t > s else 1
            inner = np.linspace(s, t, pieces + 1)[1:-1]
            if deck_row:
                between = [joints.new(np.array([x, deck.at(x)]), 9) for x in inner]
            else:
                between = [joints.new(_at(members[k].points, x), 3) for x in inner]
            links = [a, *between, b]
            ends += [(p, q) for p, q in zip(links, links[1:], strict=False) if p != q]
            owner += [-1 if deck_row else k] * (len(ends) - len(owner))
    used, numbered = np.unique(np.array(ends), return_inverse=True)
    nodes = np.array([joints.place[j][1] for j in used])
    number = {int(j): n for n, j in enumerate(used)}
    feet = [
        number[joints.find(along[k][0 if e == 0 else -1][1])]
        for k, m in enumerate(members)
        for e in (0, 1)
        if m.ends[e] == "ground" and joints.find(along[k][0 if e == 0 else -1][1]) in number
    ]
    sides = [number[joints.find(along[-1][i][1])] for i in (0, -1)]
    links_ = numbered.reshape(-1, 2)
    keep = np.hypot(*(nodes[links_[:, 0]] - nodes[links_[:, 1]]).T) > 0.05
    owners, links_ = np.array(owner)[keep], links_[keep]
    on_deck = np.unique(links_[owners == -1])
    model = Model(
        nodes,
        links_,
        owners,
        np.ones(len(links_), bool),
        _frame(nodes, links_, owners, members, [], []),
        tuple(on_deck[nodes[on_deck, 0].argsort()].tolist()),
    )
    live = _can_pull(model)
    rests = [n for n, x in zip(sides, (deck.left, deck.right), strict=True) if not ABUTMENT < x < 511 - ABUTMENT]
    return model._replace(live=live, frame=_frame(nodes, links_[live], owners[live], members, feet, rests))


def _unique(stops: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Stops without immediate repetition of a joint."""
    return [stop for k, stop in enumerate(stops) if k == 0 or stop[1] != stops[k - 1][1]]


def _at(points: Array, s: float) -> Array:
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return np.array([np.interp(s, along, points[:, 0]), np.interp(s, along, points[:, 1])])


def _frame(nodes: Array, ends: Array, owner: Array, members: list[Member], feet: list[int], rests: list[int]) -> Frame:
    kinds = ["deck" if k < 0 else members[k].kind for k in owner]
    section = np.array([_SECTIONS[kind] for kind in kinds])
    held = np.zeros((len(nodes), 3), bool)
    held[feet] = True
    held[rests, 1] = True
    return Frame(
        nodes=nodes * (METRES, -METRES),
        ends=ends,
        kind=np.array([TIE if kind in PULL_ONLY else BEAM for kind in kinds]),
        stretch=_E * section[:, 0],
        bend=_E * section[:, 1],
        line_load=np.where(owner < 0, LOAD, 0.0),
        held=held,
        pinned=np.zeros((len(ends), 2), bool),
        nodal_load=np.zeros((len(nodes), 3)),
    )


def _can_pull(model: Model) -> Array:
    """Which elements can carry anything at all, bool [M].

    Where only ties meet, a tie can be taut only if the others there can pull against it. A tie without such partners
    is slack whatever the load, and its slackness may undo the next: a cut main cable goes slack from end to end.
    """
    frame_ = model.frame
    live = np.ones(len(model.ends), bool)
    tie = frame_.kind == TIE
    meeting: dict[int, list[int]] = {}
    for m, (a, b) in enumerate(model.ends.tolist()):
        meeting.setdefault(a, []).append(m)
        meeting.setdefault(b, []).append(m)
    todo = [n for n, there in meeting.items() if all(tie[m] for m in there)]
    hinged = set(todo)
    while todo:
        node = todo.pop()
        there = [m for m in meeting[node] if live[m]]
        way = {}
        for m in there:
            a, b = model.ends[m]
            off = frame_.nodes[b if a == node else a] - frame_.nodes[node]
            way[m] = float(np.degrees(np.arctan2(off[1], off[0])))
        for m in there:
            if any(model.owner[o] == model.owner[m] for o in there if o != m):
                continue  # one cable that runs through: whatever its drawn kink, it pulls against itself
            if not _balanced(way[m], [way[o] for o in there if o != m]):
                live[m] = False
                todo += [int(n) for n in model.ends[m] if int(n) in hinged]
                break
    return live


def _balanced(angle: float, others: list[float]) -> bool:
    """Whether pulls along `others` (degrees) can balance a pull along `angle`."""
    off = sorted((o - angle) % 360 - 180 for o in others)  # 0: exactly opposite
    if not off:
        return False
    slack = _LIMP if len(off) == 1 else _SLANT
    if min(abs(o) for o in off) <= slack:
        return True
    left, right = [o for o in off if o < 0], [o for o in off if o > 0]
    return bool(left and right) and min(right) - max(left) < 180


def solve(model: Model, members: list[Member]) -> Solution:
    """The frame under its deck load. Ties are taut from dead weight already.

    A cable of chord L that sags f was hung under the deck's weight and pulls w L^2 / 8 f; that is what holds it in
    shape where a hanger is slack. Stays and hangers have the weight of 5 m of deck.
    """
    pull = np.full(len(model.frame.ends), 5 * LOAD)
    for n, k in enumerate(model.owner[model.live]):
        if k >= 0 and members[k].kind == "cable":
            chord = float(np.hypot(*(members[k].points[-1] - members[k].points[0]))) * METRES
            sag = max(abs(members[k].bow) * METRES, chord / 25)
            pull[n] = _DEAD * LOAD * chord**2 / (8 * sag)
    return frame.solve(model.frame, prestress=pull)


def girder_alone(model: Model, members: list[Member]) -> Solution:
    """The deck on its piers, legs and towers, without any arch, cable, stay, hanger, column or strut."""
    kept = [k < 0 or members[k].kind in ("pier", "leg", "tower") for k in model.owner[model.live]]
    f = model.frame
    chosen = np.array(kept)
    alone = f._replace(
        ends=f.ends[chosen],
        kind=f.kind[chosen],
        stretch=f.stretch[chosen],
        bend=f.bend[chosen],
        line_load=f.line_load[chosen],
        pinned=f.pinned[chosen],
    )
    solution = frame.solve(alone)
    if not solution.mechanism:
        return solution
    held = f.held.copy()  # only its rollers may be left: the banks keep it from sliding off
    held[model.deck_nodes[0], 0] = True
    return frame.solve(alone._replace(held=held))


def pulls(model: Model, solution: Solution) -> Array:
    """Axial force [M] N of every element of the model, tension positive; 0 in those left out of the frame."""
    force = np.zeros(len(model.ends))
    force[model.live] = solution.axial
    return force


def idle(model: Model, force: Array) -> Array:
    """Elements other than the deck that carry next to nothing, bool [M]."""
    return (np.abs(force) < _IDLE) & (model.owner >= 0)
