"""What holds the ends that no carrier holds: another end, a tie, the bank, the other leg of a tower."""

import numpy as np

from bridge_ebm.ink import WIDTH, Deck
from bridge_ebm.member import ABUTMENT, BEARING, Member

_TIED = 5.0  # pixels
_BANK = 8.0  # pixels between the end of the deck and a member that the bank holds
_CORNER = 8.0  # pixels between two ends that meet in a corner
_ONE_TOP = 9.0  # pixels: tops of leaning legs closer than this are one


def joined_at_the_top(uprights: list[Member]) -> list[Member]:
    """Uprights with the leaning legs of one tower joined where they meet."""
    done = list(uprights)
    for k, leg in enumerate(uprights):
        for j, other in enumerate(uprights[:k]):
            if leg.kind == other.kind == "tower" and np.hypot(*(leg.at[0] - other.at[0])) < _ONE_TOP:
                done[k] = leg._replace(ends=(j, leg.ends[1]), at=np.array([other.at[0], leg.at[1]]))
    return done


def tied(members: list[Member]) -> list[Member]:
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


def on_the_bank(members: list[Member], deck: Deck) -> list[Member]:
    """Ends of pressing members below the end of a deck that rests on the bank: the bank holds them."""
    done = []
    for m in members:
        ends = list(m.ends)
        for e in (0, 1):
            x, y = m.at[e]
            side = deck.left if x < WIDTH / 2 else deck.right
            bank = not ABUTMENT < side < WIDTH - 1 - ABUTMENT
            if ends[e] == "free" and m.kind in BEARING and bank and abs(x - side) <= _BANK and y > deck.at(x):
                ends[e] = "ground"
        done.append(m._replace(ends=(ends[0], ends[1])))
    return done


def sharing_ends(members: list[Member]) -> list[Member]:
    """Ends that no other member holds, but at which another one ends: those two hold each other."""
    done = list(members)
    for k, m in enumerate(members):
        ends, at = list(m.ends), m.at.copy()
        for e in (0, 1):
            for j, other in enumerate(members):
                if ends[e] == "free" and m.kind in BEARING and k in other.ends:
                    tip = other.at[other.ends.index(k)]
                    if np.hypot(*(tip - at[e])) <= _CORNER:
                        ends[e], at[e] = j, tip
        done[k] = m._replace(ends=(ends[0], ends[1]), at=at)
    return done
