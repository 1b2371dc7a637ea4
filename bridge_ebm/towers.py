"""Whether towers have something to do and something to stand on."""

from bridge_ebm.ink import METRES
from bridge_ebm.member import Member

_BESIDE = 10.0  # pixels: the other end of a cable or stay lies at least this far from the tower
_STAYS = 5  # a post with fewer of them may hang from them, as in a roof truss
_TALL = 0.75  # of the highest point over the deck: a lower post is no tower
_SPREAD = 20.0  # pixels to legs on both sides of a foot that hold it too: 12 MN over 25 m of deck are 75 MN m
_OVER = 9.0  # pixels along the deck between a tower's foot and what carries it


def place(pixel: float) -> str:
    """A place along the deck in words."""
    x = (pixel - 255.5) * METRES
    return f"{abs(x):.0f} m {'left' if x < 0 else 'right'} of mid-span" if abs(x) >= 1 else "mid-span"


def useless_towers(members: list[Member]) -> list[str]:
    """Towers that carry nothing, and towers that stand on the bare deck."""
    why = []
    highest = min((float(m.points[:, 1].min()) for m in members), default=0.0)
    for k, tower in enumerate(members):
        if tower.kind != "tower":
            continue
        where = place(float(tower.at[1, 0]))
        stands = _stands(members, k)
        if stands and not _carries(members, k):
            why.append(f"the tower {where} carries nothing")
        elif not stands and _is_pulled(members, k) and _rise(tower, highest) > _TALL:
            why.append(f"the tower {where} stands on the deck with nothing under it")
    return why


def _carries(members: list[Member], k: int) -> bool:
    """Whether anything is held by tower `k` or by the leg that leans against it."""
    tops = {k, *(j for j, m in enumerate(members) if m.kind == "tower" and (k in m.ends or j in members[k].ends))}
    return any(by in tops for m in members if m.kind not in ("tower", "pier") for by in m.ends)


def _is_pulled(members: list[Member], k: int) -> bool:
    """Whether `k` surely is a tower: a cable ends on it, or several stays."""
    held = [m.kind for m in members if k in m.ends]
    return "cable" in held or held.count("stay") >= _STAYS


def _stands(members: list[Member], k: int) -> bool:
    """Whether something that reaches below the deck holds it up where tower `k` stands."""
    foot = members[k].at[1] if members[k].ends[1] == "deck" else members[k].at[0]
    under = [
        float(at[0] - foot[0])
        for m in members
        if float(m.points[:, 1].max()) > foot[1] + _OVER
        for by, at in zip(m.ends, m.at, strict=True)
        if by == "deck"
    ]
    left, right = [x for x in under if -_SPREAD <= x <= 0], [x for x in under if 0 <= x <= _SPREAD]
    return min(map(abs, under), default=_SPREAD) <= _OVER or bool(left and right)


def _rise(tower: Member, highest: float) -> float:
    """How high a tower is, as a share of the highest point of the bridge over its foot."""
    top, foot = float(tower.points[:, 1].min()), float(tower.points[:, 1].max())
    return (foot - top) / max(foot - highest, 1.0)


def pulled_sides(members: list[Member], k: int) -> set[bool]:
    """On which sides cables and stays pull tower `k` over: True is the right one."""
    tower, sides = members[k], set()
    for j, m in enumerate(members):
        if j == k or m.kind not in ("cable", "stay", "tower"):
            continue
        for end, by in enumerate(m.ends):
            here, away = m.at[end], m.at[1 - end]
            high = here[1] < float(tower.points[:, 1].mean())
            if by == k and high and abs(away[0] - here[0]) > _BESIDE:
                sides.add(bool(away[0] > here[0]))
    if any(isinstance(by, int) for by in tower.ends):  # a leg leans against another one
        sides |= {True, False}
    return sides
