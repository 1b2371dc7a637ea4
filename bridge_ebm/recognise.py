"""Strokes to members: which line is a tower, an arch, a cable, a hanger, and what holds its two ends.

The drawing decides, by what a bridge engineer looks at. Above the deck an upright over a pier is a tower; a line that
bows up is an arch and presses; one that sags, or from which others hang, is a cable and pulls; a straight line
between two of these or the deck is a stay or hanger and pulls. Below the deck every line may press: piers and legs
reach the ground, arches bow up, columns stand between an arch and the deck. Thickness only raises or lowers the
confidence: at small sizes decks, arches and cables are equally thick.
"""

from collections.abc import Iterable

import numpy as np

from bridge_ebm.attach import (
    SHORTEST,
    Held,
    Line,
    Map,
    Tips,
    bears,
    cover,
    dense,
    find_tips,
    follow,
    mapped,
    measure,
    meet,
    on_stroke,
    smooth,
    straight,
    way_out,
)
from bridge_ebm.ends import joined_at_the_top, on_the_bank, sharing_ends, tied
from bridge_ebm.ink import DEEP, HEIGHT, WIDTH, Deck, Ink, Upright
from bridge_ebm.member import Member
from bridge_ebm.skeleton import DECK, NOTHING, Stroke, length
from bridge_ebm.stays import Stay, find_stays, to_tower
from bridge_ebm.truss import find_trusses, on_chord

Array = np.ndarray

_UPRIGHT = 5.0  # degrees off the vertical
_GROUND = 14  # pixels above the lowest foot that still are ground


def _is_deck(line: Line, deck: Deck) -> bool:
    """Whether a line is but the ragged edge of the deck, or a dot."""
    x, y = line.stroke.points.T
    level = np.abs(y - deck.row - deck.slope * x).max() < deck.half + 3.5 and line.lean > 60
    return level or (line.chord < 3 and length(line.stroke.points) <= 12)


def _surely(margin: float) -> float:
    """Confidence 0.5 (as likely as not) to 1 from a margin in units of its own threshold."""
    return round(float(0.5 + 0.5 * np.tanh(max(margin, 0.0))), 2)


def _is_foot(line: Line, end: int, deck: Deck, ground: float, mask: Array) -> bool:
    """Whether a line stands on the ground there: low enough, and no ink below it."""
    x, y = line.stroke.points[end]
    low = y + line.stroke.thickness / 2
    if line.above or line.stroke.on[end] != NOTHING or low < deck.at(x) + DEEP or low < ground - _GROUND:
        return False
    under = mask[min(int(y + 1.3 * line.stroke.thickness) + 3, HEIGHT) :, max(int(x) - 12, 0) : int(x) + 13]
    return not under.any()


def _kind(
    line: Line, others: list[Line], deck: Deck, ground: float, mask: Array, tips: Tips, crowded: bool
) -> tuple[str, float]:
    """Kind and confidence of a line; "" for a secondary member, which is named once its ends are known."""
    curved = abs(line.bow) / line.limit
    if not line.above:
        if _is_foot(line, 0, deck, ground, mask) or _is_foot(line, -1, deck, ground, mask):
            if line.lean <= 12:
                return "pier", _surely(2 - line.lean / 12)
            if line.bow > line.limit:
                return "arch", _surely(curved / 2)
            return ("leg", _surely(1.5)) if line.bow > -2 * line.limit else ("strut", 0.6)
        if line.chord > 25 and curved > 1 and line.lean > 15:
            return ("arch", _surely(curved / 2)) if line.bow > 0 else ("cable", _surely(curved / 2 - 0.3))
        return ("strut", 0.6) if bears(line, tips) or line.lean > 25 else ("", 0.0)
    if line.lean <= _UPRIGHT and DECK in line.stroke.on and _hung_on(line, others):
        return "tower", _surely(0.4)
    borne = bears(line, tips)
    hangs = NOTHING in line.stroke.on and borne < 2 and (crowded or DECK in line.stroke.on)
    hangs |= crowded and NOTHING in line.stroke.on and line.chord < 100
    if not line.fair and 2 <= borne < 4 and line.stroke.on == (DECK, DECK) and line.bow > line.limit:
        return "arch", 0.6  # a post truss: straight from corner to corner
    if (not line.fair and borne < 4) or hangs:  # a stay bent by its neighbours where they run together
        return "", 0.0
    if line.chord > 20 and curved > 1 and line.lean > 30 and (borne > 1 or (line.chord > 60 and line.fair)):
        return ("arch" if line.bow > 0 else "cable"), _surely(curved / 2)
    if line.chord > 20 and line.lean > 30 and borne > 1:
        return ("arch" if line.bow > 0.6 * line.limit else "cable"), _surely(0.3)
    return "", 0.0


def _hung_on(upright: Line, others: list[Line]) -> bool:
    """Whether lines end on the upper half of an upright from both sides, as on a tower."""
    p = upright.stroke.points
    x, top = float(p[:, 0].mean()), float(p[:, 1].min())
    reach = 4 + upright.stroke.thickness / 2
    sides = set()
    for o in others:
        q = o.stroke.points
        if o is upright or not o.above or o.lean < 15:
            continue
        for end, inner in ((q[0], q[len(q) // 2]), (q[-1], q[len(q) // 2])):
            if abs(end[0] - x) < reach and top - 4 < end[1] < top + 0.5 * upright.chord:
                sides.add(bool(inner[0] > x))
    return len(sides) == 2


def recognise(strokes: list[Stroke], uprights: list[Upright], ink: Ink, deck: Deck) -> list[Member]:
    """Name every stroke and find what holds its ends. Strokes that others already account for are left out.

    The uprights come first in the answer, in their order.
    """
    lines = [measure(s, deck) for s in strokes]
    lines = [line for line in lines if not _is_deck(line, deck)]
    ground = _lowest(lines, uprights)
    towers = [
        (k, np.array([[bar.at(y), y] for y in np.arange(bar.top, bar.bottom)]))
        for k, bar in enumerate(uprights)
        if bar.tower
    ]
    stays = find_stays(lines, towers, ink.whole, deck)
    others = [line for line, stay in zip(lines, stays, strict=True) if stay is None]
    crowded, tips = len(lines) - len(others) >= 6, find_tips(others)
    trusses = find_trusses(others)
    named = [
        (line, trusses[k], _surely(1.0))
        if k in trusses
        else (line, *_kind(line, others, deck, ground, ink.mask, tips, crowded))
        for k, line in enumerate(others)
    ]
    chosen = [(line, kind, sure) for line, kind, sure in named if kind]
    axes = [_bar_axis(bar) for bar in uprights] + [_axis(line, kind) for line, kind, _ in chosen]
    widths = [2 * bar.half for bar in uprights] + [line.stroke.thickness for line, _, _ in chosen]
    members = joined_at_the_top([_upright(bar, axis, ground) for bar, axis in zip(uprights, axes, strict=False)])
    chords = [k for k, (_, kind, _) in enumerate(chosen, len(uprights)) if kind == "chord"]
    for k, (line, kind, sure) in enumerate(chosen, len(uprights)):
        feet = [_is_foot(line, end, deck, ground, ink.mask) for end in (0, -1)]
        holders = chords if kind == "brace" else []
        members.append(_carrier(k, line, kind, sure, feet, axes, widths, ink, deck, holders))
    for k, (line, kind, _) in enumerate(chosen, len(uprights)):
        if kind in ("arch", "cable"):
            links = [_short_link(k, p, axes[k], line, deck) for p in line.stroke.grazed]
            members += [link for link in links if len(link.points) > SHORTEST]
    where = mapped(axes, widths)
    drawn = where.member >= 0
    members += _stays(zip(lines, stays, strict=True), drawn)
    _add_secondary([line for line, kind, _ in named if not kind], members, where, axes, ink, deck, drawn)
    return sharing_ends(on_the_bank(tied(members), deck))


def _lowest(lines: list[Line], uprights: list[Upright]) -> float:
    """The row of the lowest foot below the deck, 0 where there is none."""
    feet = [
        float(line.stroke.points[end][1]) + line.stroke.thickness / 2
        for line in lines
        if not line.above
        for end in (0, -1)
    ]
    return max([0.0, *feet, *(bar.bottom for bar in uprights)])


def _axis(line: Line, kind: str) -> Array:
    """The points along a member of this kind: curved where the kind is, else straight."""
    if kind in ("arch", "cable", "chord"):
        return smooth(line)
    return dense(line.stroke.points[[0, -1]] if kind == "brace" else straight(line.stroke.points)[0])


def _stays(found: Iterable[tuple[Line, Stay | None]], drawn: Array) -> list[Member]:
    """The members of the lines that are stays, whose ink is marked in bool `drawn` [HEIGHT, WIDTH]."""
    members = []
    for line, stay in found:
        if stay is not None:
            at = np.array([stay.foot, stay.head])
            members.append(
                Member("stay", _surely(1.5), dense(at), line.stroke.thickness, 0.0, ("deck", stay.tower), at, 0)
            )
            cover(drawn, members[-1].points)
    return members


def _add_secondary(
    lines: list[Line], members: list[Member], where: Map, axes: list[Array], ink: Ink, deck: Deck, drawn: Array
) -> None:
    """Append to `members` those of `lines` whose ink is not `drawn` yet, first what touches something, the longest
    first; each may hold the next.
    """
    long_enough = [line for line in lines if length(line.stroke.points) >= SHORTEST]
    for line in sorted(long_enough, key=lambda line: (not any(line.stroke.on), -line.chord)):
        member = _secondary(line, members, where, axes, ink, deck, drawn)
        if member is not None:
            members.append(member)


def _upright(bar: Upright, axis: Array, ground: float) -> Member:
    foot = "ground" if bar.bottom >= ground - _GROUND else "free"
    kind, ends = ("tower", ("free", "deck")) if bar.tower else ("pier", ("deck", foot))
    return Member(kind, _surely(1 + bar.half / 2), axis, 2 * bar.half, 0.0, ends, axis[[0, -1]], 0)


def _bar_axis(bar: Upright) -> Array:
    """The axis of a pier or tower; a tower reaches higher than its ink, to meet cables over its top."""
    top = bar.top - 3 * bar.tower
    return dense(np.array([[bar.at(top), top], [bar.x, bar.bottom]]))


def _carrier(
    k: int,
    line: Line,
    kind: str,
    sure: float,
    feet: list[bool],
    axes: list[Array],
    widths: list[float],
    ink: Ink,
    deck: Deck,
    chords: list[int],
) -> Member:
    """A leg, arch, cable or strut with what holds its ends: for a brace, one of `chords` if it is there."""
    axis, held = axes[k], []
    for end in (0, -1):
        way = way_out(axis, end)
        if line.stroke.on[end]:
            held.append(on_stroke(line.stroke.on[end], axis[end], way, axes, deck))
        elif feet[end]:
            held.append(Held("ground", axis[end], False))
        else:
            chord = on_chord(axis[end], chords, axes)
            held.append(chord or meet(axis[end], way, k, axes, widths, ink.faint, deck))
    ends = held[0].by, held[1].by
    return Member(
        kind,
        sure,
        axis,
        line.stroke.thickness,
        line.bow,
        ends,
        np.stack([h.at for h in held]),
        sum(h.gap for h in held),
    )


def _short_link(k: int, point: Array, axis: Array, line: Line, deck: Deck) -> Member:
    """The hanger or column, too short to be seen, where an arch or cable all but touches the deck."""
    top = axis[np.hypot(*(axis - point).T).argmin()]
    at = np.array([top, [top[0], deck.at(top[0])]])
    return Member("hanger" if line.above else "column", 0.6, dense(at), 1.0, 0.0, (k, "deck"), at, 0)


def _secondary(
    line: Line, members: list[Member], where: Map, axes: list[Array], ink: Ink, deck: Deck, drawn: Array
) -> Member | None:
    """A stay, hanger or column with what holds its ends; None where the ink belongs to members already found."""
    on = line.stroke.on
    ends, way = straight(line.stroke.points, 1 if on[0] == DECK else -1 if on[1] == DECK else 0)
    x, y = np.rint(line.stroke.points).astype(int).T
    reach = (0,) if any(on) else (-2, 0, 2)
    near = [drawn[np.clip(y + dy, 0, HEIGHT - 1), np.clip(x + dx, 0, WIDTH - 1)] for dy in reach for dx in reach]
    if np.any(near, 0).mean() > (0.6 if any(on) else 0.45):
        return None
    held = []
    for end, out in ((0, -way), (1, way)):
        code = on[end] if np.hypot(*(ends[end] - line.stroke.points[-end])) < 6 else NOTHING
        held.append(
            on_stroke(code, ends[end], out, axes, deck)
            if code
            else follow(ends[end], out, where, axes, ink.faint, deck)
        )
    towers = [(k, m.points) for k, m in enumerate(members) if m.kind == "tower"]
    for end in (0, 1):
        if line.above and held[end].by == "free" and held[1 - end].by == "deck":
            held[end] = to_tower(held[1 - end].at, towers, ink.whole) or held[end]
    at = np.stack([h.at for h in held])
    axis = dense(at)
    cover(drawn, axis)
    kind, sure = _secondary_kind(line, [h.by for h in held], members)
    return Member(kind, sure, axis, line.stroke.thickness, 0.0, (held[0].by, held[1].by), at, sum(h.gap for h in held))


def _secondary_kind(line: Line, by: list[str | int], members: list[Member]) -> tuple[str, float]:
    kinds = [members[b].kind if isinstance(b, int) else b for b in by]
    both = 1.0 if "free" not in kinds else 0.3
    if not line.above:
        return ("column", _surely(both * (1.5 - line.lean / 30))) if line.lean < 25 else ("strut", 0.6)
    if "tower" in kinds and line.lean > _UPRIGHT:
        return "stay", _surely(1.5 * both)
    if "cable" in kinds or "arch" in kinds:
        return "hanger", _surely(1.5 * both)
    return ("hanger" if line.lean <= _UPRIGHT else "stay"), _surely(0.5 * both)
