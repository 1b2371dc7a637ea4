"""Stays that run together: seen from their clear ends on the deck and followed through the ink to a tower."""

from typing import NamedTuple

import numpy as np

from bridge_ebm.attach import Held, Line, onto
from bridge_ebm.ink import HEIGHT, WIDTH, Deck
from bridge_ebm.skeleton import DECK

Array = np.ndarray


class Stay(NamedTuple):
    """A stay seen from its clear end: the tower's number, which side of the tower, its foot and its head."""

    tower: int
    leftward: bool
    foot: Array
    head: Array


def find_stays(lines: list[Line], towers: list[tuple[int, Array]], whole: Array, deck: Deck) -> list[Stay | None]:
    """Which lines leave the deck straight for a tower, through ink all the way, three or more on one side of it.

    Where stays run together near the tower their strokes are tangled; this sees them from their clear ends.
    """
    to: list[Stay | None] = []
    for line in lines:
        to.append(None)
        if not line.above or line.lean < 8 or DECK not in line.stroke.on:
            continue
        points = line.stroke.points if line.stroke.on[0] == DECK else line.stroke.points[::-1]
        way = points[min(20, len(points) - 1)] - points[0]
        foot = onto(points[0], way / max(float(np.hypot(*way)), 1e-9), deck)
        held = to_tower(foot, towers, whole)
        if held is not None and isinstance(held.by, int):
            off = held.at - foot
            if float(way @ off / max(np.hypot(*way) * np.hypot(*off), 1e-9)) > 0.985:
                to[-1] = Stay(held.by, bool(off[0] > 0), foot, held.at)
    sides = [None if where is None else where[:2] for where in to]
    return [where if where is not None and sides.count(where[:2]) >= 3 else None for where in to]


def to_tower(foot: Array, towers: list[tuple[int, Array]], whole: Array) -> Held | None:
    """The tower that a stay from `foot` on the deck reaches through ink all the way, where stays run together.

    `towers` are their numbers and axes. Among the points of the tower that do, the one in the middle.
    """
    for k, axis in towers:
        if not 6 < abs(axis[0, 0] - foot[0]) < 250:
            continue
        share = np.linspace(0.12, 0.97, 60)[:, None]
        x = foot[0] + share * (axis[None, :, 0] - foot[0])
        y = foot[1] + share * (axis[None, :, 1] - foot[1])
        drawn = whole[np.rint(y).astype(int).clip(0, HEIGHT - 1), np.rint(x).astype(int).clip(0, WIDTH - 1)].mean(0)
        good = np.flatnonzero((drawn >= 0.97) & (axis[:, 1] < foot[1] - 8))
        if len(good):
            return Held(k, axis[good[len(good) // 2]], False)
    return None
